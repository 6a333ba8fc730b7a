"""Sweeps whose levels are placed: each round of a curve is a checkpoint, and so is the table of all levels.

Needs: results/evaluations. Makes: rounds and the table of levels below results/studies.
"""

from itertools import chain, count


def rounds_path(sweep, number):
    """Return what a round of a sweep writes, if the checkpoint is done that does."""
    axes = dict(zip(("model", "checkpoint", "method", "task"), sweep.curve))
    done = checkpoints.place_levels.get(study=study.name, round=number, **axes)
    return done.output.levels


def last_round(sweep):
    """Return the input function that asks for one round of a sweep after the other, and returns the last."""

    def asked(wildcards):
        trajectory = sweep.model in study.trajectories()
        if trajectory and (sweep.model, sweep.checkpoint) in missing_steps(sweep.model):
            return []
        paths = (rounds_path(sweep, number) for number in count(1))
        return next(path for path in paths if read_json(path)["reason"])

    return asked


def first_rounds(wildcards):
    """Return the table of placed levels and the first round of each curve; nothing where no levels are placed.

    A job that waits for a checkpoint is not run for that alone where its output exists: rules that wait for none name
    these files, so that curves which are new in a finished study are seen.
    """
    sweeps = existing().sweeps
    folder = f"results/studies/{study.name}"
    rounds = [f"{folder}/levels/{'/'.join(sweep.curve)}/1.json" for sweep in sweeps]
    return [f"{folder}/tables/levels.parquet", *rounds] if sweeps else []


def sweep_of(wildcards):
    """Return the sweep of a curve."""
    return study.sweep(
        wildcards.model, wildcards.checkpoint, wildcards.method, wildcards.task
    )


def earlier_rounds(wildcards):
    """Return what the round before wrote; nothing of the first."""
    number = int(wildcards.round)
    return [rounds_path(sweep_of(wildcards), number - 1)] if number > 1 else []


def known_rows(wildcards):
    """Return the evaluations of all levels of a curve that were placed before a round, those of all seeds."""
    sweep = sweep_of(wildcards)
    rounds = [read_json(path)["rounds"] for path in earlier_rounds(wildcards)]
    levels = chain(*rounds[0]) if rounds else map(float, sweep.settings.start)
    return [evaluation_path(e) for e in study.sweep_evaluations(sweep, levels)]


checkpoint place_levels:
    # All seeds of a curve have the same levels; the mean over them decides.
    input:
        earlier=earlier_rounds,
        rows=known_rows,
    output:
        levels="results/studies/{study}/levels/{model}/{checkpoint}/{method}/{task}/{round}.json",
    log:
        "results/studies/{study}/logs/place_levels/{model}/{checkpoint}/{method}/{task}/{round}.log",
    # The next levels of a curve wait for it.
    priority: 70
    conda:
        "../../envs/workflow.yaml"
    threads: 1
    resources:
        **needs(),
    params:
        code=code("place_levels.py"),
        settings=lambda wildcards: canonical(plain(sweep_of(wildcards).settings)),
    message:
        "Placing levels of {wildcards.model}, {wildcards.checkpoint}, {wildcards.method} on {wildcards.task}, after round {wildcards.round}"
    script:
        "../scripts/place_levels.py"


checkpoint collect_levels:
    # A function for each curve: each asks for its own next round, so that all curves go on beside each other.
    input:
        *map(last_round, study.sweeps),
    output:
        table="results/studies/{study}/tables/levels.parquet",
    log:
        "results/studies/{study}/logs/collect_levels.log",
    conda:
        "../../envs/workflow.yaml"
    threads: 1
    resources:
        **needs(),
    params:
        code=code("collect_levels.py"),
    message:
        "Collecting the levels that were placed for {wildcards.study}"
    script:
        "../scripts/collect_levels.py"
