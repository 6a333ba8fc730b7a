"""A device belongs to one job, or to some that share it, until their processes end, whatever ends them."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import gpu_jobs
from essential_sparsity.errors import UserError
from essential_sparsity.run.leases import FOLDER, Wanted, lease_gpus, usable_gpus, wanted_gpus
from gpu_jobs import USERS, most_in_use
from tiny import ROOT

# A job that says what it has, and does something before and after it leases.
JOB = """
import json, logging, os, sys
sys.path.insert(0, sys.argv[1])
from essential_sparsity.run import leases
leases.PAUSE_S = 0.02
logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(message)s")
exec(sys.argv[3])
leases.lease_gpus(json.loads(sys.argv[2]), "rule")
exec(sys.argv[4])
sys.stdin.read()
"""
ALIKE = """GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-aaaa1111-0000)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-aaaa2222-0000)
GPU 2: NVIDIA A100-SXM4-40GB (UUID: GPU-bbbb3333-0000)
"""
DIVIDED = """GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-aaaa1111-0000)
  MIG 3g.20gb     Device  0: (UUID: MIG-part1)
  MIG 2g.10gb     Device  1: (UUID: MIG-part2)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-aaaa2222-0000)
"""


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The beginning of names that devices have in this test alone; there is no driver to ask."""
    number = f"{os.getpid()}{time.monotonic_ns()}"
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    yield f"GPU-{number}-"
    for file in FOLDER.glob(f"essential-sparsity-*{number}*"):
        file.unlink()


@pytest.fixture
def start(device: str) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Returns what starts a job, which keeps its devices until it is killed, at the latest when the test ends."""
    jobs: list[subprocess.Popen[str]] = []

    def started(
        visible: str = "0", gpu: int = 1, percent: int | None = None, before: str = "", then: str = "", **variables: str
    ) -> subprocess.Popen[str]:
        resources = json.dumps({"gpu": gpu} | ({} if percent is None else {"gpu_percent": percent}))
        named = {"CUDA_VISIBLE_DEVICES": ",".join(device + name for name in visible)}
        command = [sys.executable, "-c", JOB, str(ROOT / "workflow" / "scripts"), resources, before, then]
        environment = {**os.environ, **named, **variables}
        jobs.append(
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        )
        return jobs[-1]

    yield started
    for job in jobs:
        job.kill()
        job.wait()


def said(job: subprocess.Popen[str]) -> str:
    """Wait for the next line of a job's log."""
    assert job.stdout is not None
    return job.stdout.readline()


# --- Under load ---


def test_200_jobs_on_4_devices_some_of_them_killed_share_nothing_and_leak_nothing(
    device: str, start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    command = [sys.executable, gpu_jobs.__file__, device, "200", "64", "0"]
    with open(tmp_path / "journal", "ab") as journal:
        subprocess.run(command, check=True, timeout=600, stdout=journal)
    events = [json.loads(line) for line in (tmp_path / "journal").read_text().splitlines()]
    jobs: dict[str, dict[int, Any]] = {}
    for event in events:
        jobs.setdefault(event["event"], {})[event["job"]] = event
    started, entered, killed = (jobs[name].keys() for name in ("start", "enter", "kill"))
    assert len(started) == 200
    assert entered & killed and killed - entered, "some were killed with devices, and some while they waited"
    # All others had their turn, and what they had asked for.
    assert jobs["leave"].keys() >= started - killed
    for job, event in jobs["enter"].items():
        assert len(set(event["devices"])) == gpu_jobs.KINDS[jobs["start"][job]["kind"]]["gpu"]
    assert {event["percent"] for event in jobs["enter"].values()} == {25, 50, 100}
    assert most_in_use(events) == {f"{device}{number}": 100 for number in range(4)}
    assert said(start("0123", 4)).startswith("GPUs:"), "nothing is left behind: one job gets all devices at once"


# --- What a lease is, and how it ends ---


def test_a_device_is_a_killed_jobs_no_longer_and_a_living_ones_whatever_its_children_do(
    device: str, start: Callable[..., subprocess.Popen[str]]
) -> None:
    # A forked process has the job's open files, as workers that read data do.
    then = "if not os.fork():\n  os.closerange(3, 100); os._exit(0)\nos.wait()\nif not os.fork(): os.read(0, 1)"
    first = start(then=f"{then}\nprint('forked', flush=True)")
    assert said(first).startswith(f"GPUs: {device}0 (100 % of each)")
    assert said(first) == "forked\n"
    second = start()
    assert said(second) == f"Waiting for 1 of these GPUs, 100 % of each: {device}0\n"
    first.kill()
    assert said(second).startswith(f"GPUs: {device}0 ")


def test_shares_are_of_the_first_device_with_room_and_whole_ones_are_shared_with_nobody(
    device: str, start: Callable[..., subprocess.Popen[str]]
) -> None:
    for percent, number in ((60, 0), (50, 1), (40, 0), (50, 1)):
        assert said(start("01", percent=percent)).startswith(f"GPUs: {device}{number} ({percent} % of each)")
    assert said(start("01", percent=1)).startswith("Waiting for 1 of")
    assert said(start("012")).startswith(f"GPUs: {device}2 ")
    # Nobody who waits for two keeps the one that is free.
    assert said(start("03", 2)).startswith("Waiting for 2 of")
    assert said(start("3")).startswith(f"GPUs: {device}3 ")


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be two users")
def test_two_users_wait_for_each_other_whatever_the_first_one_left(
    device: str, start: Callable[..., subprocess.Popen[str]]
) -> None:
    one, other = (f"os.umask(0o077); os.setuid({user})" for user in USERS)
    left = start(before=one, TMPDIR="/tmp/one")
    said(left)
    left.kill()
    left.wait()
    file = FOLDER / f"essential-sparsity-{device}0.lock"
    assert (file.stat().st_uid, stat.S_IMODE(file.stat().st_mode)) == (USERS[0], 0o666)
    os.utime(file, (0, 0))
    second = start(before=other, TMPDIR="/tmp/other")
    assert said(second).startswith("GPUs:")
    assert time.time() - file.stat().st_mtime < 600, "or what cleans the folder removes it"
    third = start(before=one, TMPDIR="/tmp/one")
    assert said(third).startswith("Waiting")
    second.kill()
    assert said(third).startswith("GPUs:")


# --- What a profile gives ---


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        ({}, Wanted(0, 100)),
        ({"gpu": 2}, Wanted(2, 100)),
        ({"gpu": 1, "gpu_percent": 25}, Wanted(1, 25)),
        ({"gpu": 3, "gpu_percent": 300}, Wanted(3, 100)),
    ],
)
def test_what_a_profile_gives(resources: dict[str, int], expected: Wanted) -> None:
    assert wanted_gpus(resources, "rule") == expected


@pytest.mark.parametrize(
    "resources",
    [
        {"gpu": -1}, {"gpu": "one"}, {"gpu": 1, "gpu_percent": 0}, {"gpu": 1, "gpu_percent": 101},
        {"gpu": 1, "gpu_percent": "a quarter"}, {"gpu": 2, "gpu_percent": 50}, {"gpu_percent": 25},
    ],
)  # fmt: skip
def test_what_a_profile_cannot_give(resources: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"of rule finetune_model.*To mend: .*set-resources"):
        wanted_gpus(resources, "finetune_model")


@pytest.mark.parametrize(("visible", "there"), [("0", r"1 GPUs to use \(CUDA_VISIBLE_DEVICES=0\)"), ("", "no GPUs")])
def test_more_devices_than_there_are_is_an_error_and_no_wait(
    device: str, monkeypatch: pytest.MonkeyPatch, visible: str, there: str
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with pytest.raises(UserError, match=f"gpu=2, but {there}"):
        lease_gpus({"gpu": 2}, "rule")


# --- Which devices there are, by every name that they have, without CUDA ---


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Returns what installs a driver whose ``nvidia-smi -L`` prints a text, and names devices as a user does."""

    def install(text: str, named: str | None, status: int = 0) -> None:
        program = tmp_path / "nvidia-smi"
        program.write_text(f"#!/bin/sh\n[ \"$*\" = -L ] || exit 9\n/bin/cat <<'END'\n{text}END\nexit {status}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if named is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)

    return install


@pytest.mark.parametrize(
    ("text", "named", "expected"),
    [
        (ALIKE, None, ["GPU-aaaa1111-0000", "GPU-aaaa2222-0000", "GPU-bbbb3333-0000"]),
        (ALIKE, "2,0", ["GPU-bbbb3333-0000", "GPU-aaaa1111-0000"]),
        (ALIKE, " 1 , 2", ["GPU-aaaa2222-0000", "GPU-bbbb3333-0000"]),
        (ALIKE, "GPU-bbbb,GPU-aaaa2", ["GPU-bbbb3333-0000", "GPU-aaaa2222-0000"]),
        # One device has one name, whatever it is called.
        (ALIKE, "1,GPU-aaaa2222-0000", ["GPU-aaaa2222-0000"]),
        # As for CUDA, what is no device ends the list.
        (ALIKE, "0,3,1", ["GPU-aaaa1111-0000"]),
        (ALIKE, "0,-1,1", ["GPU-aaaa1111-0000"]),
        (ALIKE, "", []),
        (ALIKE, "NoDevFiles", []),
        # Of a GPU that is divided, the parts are the devices, and the GPU's own names mean the first.
        (DIVIDED, None, ["MIG-part1", "MIG-part2", "GPU-aaaa2222-0000"]),
        (DIVIDED, "0,1", ["MIG-part1", "GPU-aaaa2222-0000"]),
        (DIVIDED, "GPU-aaaa1,MIG-part2", ["MIG-part1", "MIG-part2"]),
        ("".join(f"GPU {n}: NVIDIA (UUID: GPU-{n})\n" for n in range(16)), "1,12", ["GPU-1", "GPU-12"]),
    ],
)
def test_devices_are_those_that_cuda_would_see_by_names_that_all_runs_share(
    driver: Callable[..., None], text: str, named: str | None, expected: list[str]
) -> None:
    driver(text, named)
    assert usable_gpus() == expected


@pytest.mark.parametrize("named", [None, "0"])
def test_a_driver_that_fails_is_an_error_since_other_jobs_may_have_had_its_names(
    driver: Callable[..., None], named: str | None
) -> None:
    driver("Driver/library version mismatch\n", named, 18)
    with pytest.raises(UserError, match=r"status 18 \(Driver/library version mismatch\)"):
        usable_gpus()


def test_without_a_driver_to_ask_numbers_are_a_machines_or_those_of_a_slurm_job(
    device: str, start: Callable[..., subprocess.Popen[str]]
) -> None:
    number = device.split("-")[1]
    for job in ({}, {"SLURM_JOB_ID": device + "1"}, {"SLURM_JOB_ID": device + "2"}):
        assert said(start(CUDA_VISIBLE_DEVICES=number, **job)).startswith(f"GPUs: {number} ")
        assert said(start(CUDA_VISIBLE_DEVICES=number, **job)).startswith("Waiting")
