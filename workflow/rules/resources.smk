"""What jobs ask for: memory, time and GPUs, by the one table of needs and by what the profile gives."""

from essential_sparsity.planning.needs import AROUND_MB, NEEDS, Read, read_by
from essential_sparsity.run.leases import wanted_gpus
from essential_sparsity.study import checks


def given_gpus(rule_name):
    """Return what the profile gives a rule of GPUs; numbers that no job can have end the run before it starts."""
    given = seam.given_resources(workflow, rule_name)
    return or_stop(lambda: wanted_gpus(given, rule_name))


def check_batches(rule_name, tasks):
    """Stop if the GPUs that the profile gives to a rule cannot share the batches of tasks."""
    or_stop(
        lambda: checks.check_batches(
            study, rule_name, tasks, given_gpus(rule_name).gpus
        )
    )


def needs(rule_name="tables", settings=lambda wildcards: {}):
    """Return the resources of a rule: functions of what a job reads, and twice as much when it is tried again.

    Settings are what else needs depend on (needs.py): the task, calibration, recipe or source that wildcards stand for.
    """
    need, gpus = NEEDS[rule_name], given_gpus(rule_name).gpus

    def read(input):
        return read_by(input, input.get("weights")) if need.times else Read(0)

    def memory(wildcards, input, attempt):
        own = need.memory(settings(wildcards), read(input), gpus)
        return attempt * (own + AROUND_MB * (not seam.runs_jobs_here(workflow)))

    def gpu_memory(wildcards, input, attempt):
        return attempt * need.gpu_memory(settings(wildcards), read(input))

    def runtime(wildcards, input, attempt, threads):
        return attempt * need.runtime(read(input), threads, gpus)

    return {
        "mem_mb": memory,
        "runtime": runtime,
        **({"gpu": 0} if need.gpu else {}),
        **({"gpu_mem_mb": gpu_memory} if gpus else {}),
    }


def of_task(wildcards):
    """Return the task of an evaluation."""
    return study.tasks[wildcards.task]


def of_calibration(wildcards):
    """Return the calibration of statistics, or of a method."""
    name = wildcards.get("calibration") or study.method(wildcards.method).calibration
    return study.calibrations[name]
