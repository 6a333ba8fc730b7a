"""The workflow on Slurm: a study, its jobs' GPUs and logs, and what becomes of cancelled, killed and orphaned jobs.

All that takes time goes on at once, on nodes that the scenarios do not share; each test looks at one of them.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import pytest
import torch

from essential_sparsity.planning.needs import AROUND_MB, NEEDS
from slurm_cluster import MISSING, Cluster, until
from slurm_runs import COMPUTING, DATASET, PRETRAINING, Run, end_of

pytestmark = pytest.mark.skipif(
    bool(MISSING),
    reason=f"Slurm is not installed: no {', '.join(MISSING)} "
    "(apt-get install --no-install-recommends slurmctld slurmd slurm-client munge)",
)
# No machine of these tests has a GPU: what computes on one if it can computes on the CPU, in the CPU's partition.
ON_CPU = {name: {"gpu": 0, "slurm_partition": "cpu"} for name in COMPUTING}


@dataclass
class Seen:
    """What a scenario has left.

    Attributes:
        run: The folder that it ran in.
        ended: The status of each run, and what it printed.
        jobs: What Slurm says of its jobs, by rule, in the order of their numbers.
        with_gpu: What it said of one with a GPU while that ran: the device is forgotten with the end.
    """

    run: Run
    ended: list[tuple[int, str]]
    jobs: dict[str, list[dict[str, str]]]
    with_gpu: dict[str, str] = field(default_factory=dict)

    def states(self, rule: str) -> list[str]:
        return [job["JobState"] for job in self.jobs[rule]]

    def memory(self, rule: str) -> list[int]:
        """Return what the jobs of a rule were given, in MB of 2^20 bytes."""
        given = [re.search(r"\bmem=(\d+)([MG])", job["TRES"]) for job in self.jobs[rule]]
        return [int(found[1]) * {"M": 1, "G": 1024}[found[2]] for found in given if found]

    def log(self, rule: str, job: str) -> str:
        return (self.run.work / "results" / "logs" / rule / f"{job}.log").read_text()


def seen(run: Run, cluster: Cluster, ended: list[tuple[int, str]], with_gpu: dict[str, str] | None = None) -> Seen:
    jobs: dict[str, list[dict[str, str]]] = {}
    for number in cluster.jobs(run.work):
        details = cluster.details(number)
        match = re.match(r"rule_([a-z_]+?)(_wildcards_|$)", details["Comment"])
        assert match is not None, details["Comment"]
        jobs.setdefault(match[1], []).append(details)
    return Seen(run, ended, jobs, with_gpu or {})


def whole_study(folder: Path, cluster: Cluster) -> Seen:
    """A study of which one job is cancelled by somebody, and another is given too little memory at first."""
    resources = {
        **ON_CPU,
        # Rules that do not compute, and so can be given GPUs that are none.
        "list_matrices": {"gpu": 1, "slurm_partition": "gpu"},
        "prepare_inputs": {"mem_mb": "450 * attempt"},
    }
    run = Run(folder, cluster, "cpu", "gpu", resources)
    process = run.start()
    cluster.run("scancel", str(cluster.running(run.work, "collect_losses")))
    with_gpu = cluster.details(cluster.running(run.work, "list_matrices"))
    return seen(run, cluster, [end_of(process)], with_gpu)


def same_study_here(folder: Path, cluster: Cluster) -> Seen:
    run = Run(folder, cluster, resources=ON_CPU, executor="local")
    return Seen(run, [run.finish("--cores", "all")], {})


def runs_that_end_early(folder: Path, cluster: Cluster) -> Seen:
    """A run that is interrupted, one that is killed, those that come after it, and one with a real GPU rule."""
    run = Run(folder, cluster, "other", retries=0)
    interrupted = run.start(DATASET)
    first = cluster.running(run.work, "prepare_dataset")
    until(lambda: run.has_said(f"SLURM jobid {first} "), what=f"the number of job {first}")
    interrupted.send_signal(signal.SIGINT)
    ended = [end_of(interrupted)]
    until(lambda: cluster.jobs(run.work)[first] == "CANCELLED", what=f"job {first} to be cancelled")
    assert not (run.work / DATASET).exists()

    killed = run.start(DATASET)
    second = cluster.running(run.work, "prepare_dataset")
    cluster.signal(second, signal.SIGSTOP)
    until(lambda: run.has_said(f"SLURM jobid {second} "), what=f"the number of job {second}")
    killed.kill()
    ended += [end_of(killed), run.finish("--unlock"), run.finish(DATASET)]
    assert len(cluster.jobs(run.work)) == 2
    cluster.signal(second, signal.SIGCONT)
    until(lambda: cluster.jobs(run.work)[second] == "COMPLETED", what=f"job {second} to end")
    process = run.start(PRETRAINING)
    with_gpu = cluster.details(cluster.running(run.work, "pretrain_model"))
    return seen(run, cluster, [*ended, end_of(process)], with_gpu)


def never_enough_memory(folder: Path, cluster: Cluster) -> Seen:
    run = Run(folder, cluster, "other", resources={"prepare_dataset": {"mem_mb": "40 * attempt"}})
    return seen(run, cluster, [run.finish(DATASET)])


def lost_node(folder: Path, cluster: Cluster) -> Seen:
    run = Run(folder, cluster, "dying")
    process = run.start(DATASET)
    job = cluster.running(run.work, "prepare_dataset")
    cluster.kill_node(cluster.details(job)["NodeList"])
    return seen(run, cluster, [end_of(process)])


@pytest.fixture(scope="module")
def scenarios(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[Seen]]]:
    """All scenarios under way. The cluster ends first, and with it whatever a scenario still waits for."""
    folder = tmp_path_factory.mktemp("slurm")
    with ThreadPoolExecutor() as pool, Cluster() as cluster:
        all_of_them = (whole_study, same_study_here, runs_that_end_early, never_enough_memory, lost_node)
        yield {what.__name__: pool.submit(what, folder / what.__name__, cluster) for what in all_of_them}


@pytest.fixture(scope="module")
def whole(scenarios: dict[str, Future[Seen]]) -> Seen:
    found = scenarios["whole_study"].result()
    assert found.ended[0][0] == 0, found.ended[0][1]
    return found


@pytest.fixture(scope="module")
def early(scenarios: dict[str, Future[Seen]]) -> Seen:
    return scenarios["runs_that_end_early"].result()


def test_a_job_that_never_has_enough_memory_is_not_submitted_for_ever(scenarios: dict[str, Future[Seen]]) -> None:
    found = scenarios["never_enough_memory"].result()
    # The profile's two retries, and more memory each time; the Snakemake inside a job repeats nothing.
    assert found.memory("prepare_dataset") == [40, 80, 120]
    assert set(found.states("prepare_dataset")) <= {"FAILED", "OUT_OF_MEMORY"}
    assert found.ended[0][0] == 1
    assert not (found.run.work / DATASET).exists()


def test_a_job_of_a_lost_node_runs_on_another(scenarios: dict[str, Future[Seen]]) -> None:
    found = scenarios["lost_node"].result()
    assert found.ended[0][0] == 0, found.ended[0][1]
    assert found.states("prepare_dataset") == ["NODE_FAIL", "COMPLETED"]
    lost, again = found.jobs["prepare_dataset"]
    assert {lost["NodeList"], again["NodeList"]} == {"n4", "n5"}
    # Slurm has not started it again by itself, beside the one that was submitted in its place.
    assert (lost["Requeue"], lost["Restarts"]) == ("0", "0")


def test_an_interrupted_run_cancels_its_jobs(early: Seen) -> None:
    assert early.ended[0][0] == 1
    assert early.states("prepare_dataset")[0] == "CANCELLED"


def test_a_run_after_a_killed_one_does_not_write_beside_its_jobs(early: Seen) -> None:
    killed, unlocked, refused = early.ended[1:4]
    assert (killed[0], unlocked[0]) == (-signal.SIGKILL, 0)
    orphan = early.jobs["prepare_dataset"][1]
    assert refused[0] == 1
    assert "jobs of another run in Slurm's queue (1)" in refused[1]
    assert f"scancel {orphan['JobId']})" in refused[1]
    # Once it has ended, what it made is as good as any: the next run goes on from there.
    assert orphan["JobState"] == "COMPLETED"
    assert len(early.jobs["prepare_dataset"]) == 2


def device_of(job: dict[str, str]) -> str:
    """Return the number of the GPU that Slurm has given a job, of the node's."""
    assert (job["JOB_GRES"], job["TresPerJob"]) == ("gpu:1", "gres:gpu:1")
    index = re.fullmatch(r"gpu:1\(IDX:(\d)\)", job["GRES"])
    assert index is not None, job["GRES"]
    return index[1]


def test_a_rule_that_the_profile_gives_a_gpu_sees_its_device(early: Seen) -> None:
    job = early.with_gpu
    log = early.log("pretrain_model", "tiny-bert")
    assert f"Slurm job {job['JobId']}, GPUs {device_of(job)}\n" in log
    if not torch.cuda.is_available():
        # Slurm's GPU is none. The job says so, and computes nothing on the CPU in its place.
        status, text = early.ended[4]
        assert status == 1
        assert "gpu=1, but torch" in log and "sees no CUDA devices" in log
        assert "results/logs/pretrain_model/tiny-bert.log" in text


def test_a_study_on_slurm_has_the_tables_of_one_on_this_machine(
    whole: Seen, scenarios: dict[str, Future[Seen]]
) -> None:
    here = scenarios["same_study_here"].result()
    assert here.ended[0][0] == 0, here.ended[0][1]
    folders = [found.run.work / "results" / "studies" / "tiny" for found in (whole, here)]
    names = [sorted(path.name for path in (folder / "tables").glob("*.parquet")) for folder in folders]
    assert names[0] == names[1] and "knees.parquet" in names[0]
    for name in names[0]:
        one, other = (pd.read_parquet(folder / "tables" / name) for folder in folders)
        if name == "costs.parquet":
            one, other = (table[["rule", "job"]] for table in (one, other))
        measured = ["seconds", "peak_memory_mb"]
        one, other = (table.drop(columns=measured, errors="ignore") for table in (one, other))
        pd.testing.assert_frame_equal(one, other, check_exact=True)
    assert (folders[0] / "report.html").exists()
    assert (folders[0] / "summary.txt").read_text() in whole.ended[0][1]


def test_jobs_are_given_what_the_profile_says(whole: Seen) -> None:
    partitions = {rule: {job["Partition"] for job in jobs} for rule, jobs in whole.jobs.items()}
    assert partitions.pop("list_matrices") == {"gpu"}
    assert {"extract_checkpoint", "prune_weights", "finetune_model", "find_knees", "write_report"} <= set(partitions)
    assert set().union(*partitions.values()) == {"cpu"}
    # A process of ours, and the Snakemakes around it.
    least = (NEEDS["list_matrices"].mb + AROUND_MB) * 1e6 / 2**20
    assert all(min(whole.memory(rule)) >= least for rule in partitions if rule != "prepare_inputs")
    # So nothing fails but what was cancelled, and what was given too little on purpose.
    failed = {rule for rule in whole.jobs if set(whole.states(rule)) != {"COMPLETED"}}
    assert failed == {"collect_losses", "prepare_inputs"}
    assert all(job["Requeue"] == "0" for jobs in whole.jobs.values() for job in jobs)


def test_a_gpu_job_among_others_carries_its_gres(whole: Seen) -> None:
    job = whole.with_gpu
    assert f"Slurm job {job['JobId']}, GPUs {device_of(job)}\n" in whole.log("list_matrices", "tiny-bert")
    assert "GPUs none\n" in whole.log("pretrain_model", "tiny-bert")


def test_a_job_that_somebody_cancels_is_submitted_again(whole: Seen) -> None:
    assert whole.states("collect_losses") == ["CANCELLED", "COMPLETED"]


def test_a_job_without_enough_memory_is_submitted_again_with_more(whole: Seen) -> None:
    *killed, last = whole.states("prepare_inputs")
    assert killed and set(killed) <= {"FAILED", "OUT_OF_MEMORY"} and last == "COMPLETED"
    assert whole.memory("prepare_inputs") == [450 * attempt for attempt in range(1, len(killed) + 2)]


def test_logs_are_where_the_readme_says(whole: Seen) -> None:
    kept = {int(path.stem): path for path in (whole.run.work / ".snakemake" / "slurm_logs").rglob("*.log")}
    jobs = {int(job["JobId"]): job for jobs in whole.jobs.values() for job in jobs}
    # Slurm's are kept of jobs that failed, and of no others.
    assert set(kept) == {number for number, job in jobs.items() if job["JobState"] != "COMPLETED"}
    assert all(Path(jobs[number]["StdOut"]) == path for number, path in kept.items())
    starved = whole.jobs["prepare_inputs"][0]
    log = kept[int(starved["JobId"])]
    assert log.parent.relative_to(whole.run.work) == Path(
        ".snakemake/slurm_logs/rule_prepare_inputs/tiny-bert_tiny-kind"
    )
    assert "exceeded memory limit" in log.read_text()
