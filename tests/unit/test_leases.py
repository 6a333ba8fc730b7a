"""A device belongs to one job, or to some that share it, until their processes end, whatever ends them."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import gpu_jobs
from essential_sparsity.errors import UserError
from essential_sparsity.run import device_locks
from essential_sparsity.run.device_locks import Lease, wait_for_devices
from essential_sparsity.run.leases import Wanted, lease_gpus, lock_folder, wanted_gpus
from gpu_jobs import Use, most_in_use
from tiny import ROOT

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="GPUs are leased on Linux")

# A job that says what it has, and does something once it is told to.
JOB = """
import json, logging, os, sys
sys.path.insert(0, sys.argv[1])
from essential_sparsity.run import device_locks, leases
wait = device_locks.wait_for_devices
device_locks.wait_for_devices = lambda *given: wait(*given, poll_s=0.02)
logging.basicConfig(stream=sys.stderr, level=logging.INFO)
leases.lease_gpus(json.loads(sys.argv[2]), sys.argv[3])
print(os.environ["CUDA_VISIBLE_DEVICES"], flush=True)
exec(sys.argv[4])
sys.stdin.read()
"""


class Job:
    """A process that leases fake devices and keeps them until it is told to end."""

    def __init__(self, folder: Path, resources: dict[str, int], rule: str, then: str = "", **environment: str) -> None:
        library = str(ROOT / "workflow" / "scripts")
        self.process = subprocess.Popen(
            [sys.executable, "-c", JOB, library, json.dumps(resources), rule, then], text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={"PATH": str(folder), "TMPDIR": str(folder), **environment},
        )  # fmt: skip

    def devices(self) -> list[str]:
        """Wait until it has its devices; return them."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip().split(",")

    def words(self, about: str) -> str:
        """Wait for a line of its log about something."""
        assert self.process.stderr is not None
        return next(line for line in self.process.stderr if about in line)

    def end(self) -> None:
        """Let it end."""
        self.process.communicate(timeout=60)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Job]]:
    """Returns what starts a job; those that are left are killed."""
    jobs: list[Job] = []

    def started(resources: dict[str, int], visible: str = "0,1", rule: str = "rule", then: str = "") -> Job:
        jobs.append(Job(tmp_path, resources, rule, then, CUDA_VISIBLE_DEVICES=visible))
        return jobs[-1]

    yield started
    for job in jobs:
        job.kill()


# --- Under load ---


def test_200_jobs_on_4_devices_some_of_them_killed_share_nothing_and_leak_nothing(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    environment = {"PATH": str(tmp_path), "TMPDIR": str(tmp_path)}
    command = [sys.executable, gpu_jobs.__file__, str(journal), "200", "64", "0"]
    subprocess.run(command, check=True, timeout=600, env=environment)
    events: dict[str, dict[int, Any]] = {}
    for event in map(json.loads, journal.read_text().splitlines()):
        events.setdefault(event["event"], {})[event["job"]] = event
    started, entered, killed = (events[name].keys() for name in ("start", "enter", "kill"))
    assert len(started) == 200
    assert entered & killed and killed - entered, "some were killed with devices, and some while they waited"
    # All others had their turn, and what they had asked for.
    assert events["leave"].keys() >= started - killed
    for job, event in entered.mapping.items():
        wanted = gpu_jobs.KINDS[events["start"][job]["kind"]]
        assert len(set(event["devices"])) == wanted["gpu"]
    uses = gpu_jobs.uses_of(journal)
    assert most_in_use(uses) == dict.fromkeys("0123", 100)
    assert {use.percent for use in uses} == {25, 50, 100}
    # Nothing is left behind: one job gets all devices at once, and no ticket remains.
    folder = next(tmp_path.glob("essential-sparsity-gpus-*"))
    wait_for_devices(folder, list("0123"), 4, 100, "the last").release()
    assert not list(folder.glob("waiting-*"))


@pytest.mark.parametrize(("second", "most"), [(range(10, 20), 100), (range(9, 20), 200)])
def test_the_measure_of_shared_devices_sees_one_moment_of_it(second: range, most: int) -> None:
    uses = [Use("0", 1, 100, 0, 10), Use("0", 2, 100, second.start, second.stop), Use("1", 3, 25, 0, 30)]
    assert most_in_use(uses) == {"0": most, "1": 25}


# --- How a lease ends ---


def test_a_killed_job_gives_its_device_back_whatever_it_started(start: Callable[..., Job]) -> None:
    # A forked process has the job's open files, as workers that read data do; a started one has none of them.
    then = (
        "import subprocess, time\n"
        "other = subprocess.Popen(['/bin/sleep', '60'], close_fds=False)\n"
        "child = os.fork()\n"
        "if not child: time.sleep(60); os._exit(0)\n"
        "print(child, other.pid, flush=True)"
    )
    first = start({"gpu": 1}, "0", "first", then)
    assert first.devices() == ["0"]
    assert first.process.stdout is not None
    children = [int(number) for number in first.process.stdout.readline().split()]
    second = start({"gpu": 1}, "0", "second")
    assert f"process {first.process.pid}, first" in second.words("Waiting")
    first.kill()
    assert second.devices() == ["0"]
    for child in children:
        os.kill(child, signal.SIGKILL)  # Both outlived it.


def test_no_process_that_a_job_forks_gives_its_device_back(start: Callable[..., Job]) -> None:
    then = (
        "child = os.fork()\nif not child: sys.exit(0)\nos.waitpid(child, 0)\n"
        "child = os.fork()\nif not child: leases._held[0].release(); os._exit(0)\nos.waitpid(child, 0)\n"
        "print('forked', flush=True)"
    )
    first = start({"gpu": 1}, "0", "first", then)
    assert first.devices() == ["0"]
    assert first.devices() == ["forked"]
    second = start({"gpu": 1}, "0", "second")
    assert "first" in second.words("Waiting")
    first.end()
    assert second.devices() == ["0"]


def test_nobody_is_overtaken_by_those_who_want_less_and_nobody_waits_for_other_devices(
    start: Callable[..., Job],
) -> None:
    first = start({"gpu": 1})
    assert first.devices() == ["0"]
    both = start({"gpu": 2}, rule="both")
    both.words("Waiting")
    late = start({"gpu": 1}, rule="late")
    assert f"before us: process {both.process.pid}, both" in late.words("Waiting")
    assert start({"gpu": 1}, "2").devices() == ["2"]
    first.end()
    assert both.devices() == ["0", "1"]
    both.end()
    assert late.devices() == ["0"]


def test_a_job_that_is_killed_while_it_waits_holds_nobody_up(start: Callable[..., Job]) -> None:
    first = start({"gpu": 1}, "0")
    assert first.devices() == ["0"]
    waiting = start({"gpu": 1}, "0", "waiting")
    waiting.words("Waiting")
    last = start({"gpu": 1}, "0")
    last.words("before us")
    waiting.kill()
    first.end()
    assert last.devices() == ["0"]


# --- What a lease is of ---


class WaitingError(Exception):
    """A job would have to wait."""


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No job waits."""

    def refuse(*_: object) -> None:
        raise WaitingError

    monkeypatch.setattr(device_locks, "_rest", refuse)


Request = tuple[int, int]
REQUESTS = st.one_of(st.tuples(st.integers(1, 3), st.just(100)), st.tuples(st.just(1), st.integers(1, 100)))


@given(steps=st.lists(st.one_of(REQUESTS, st.integers(0, 5)), max_size=12))
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_leases_are_those_of_a_ledger(impatient: None, steps: list[Request | int]) -> None:
    # A ledger of what is free, and rules: whole devices from the first, parts where the least is free.
    free = {"a": 100, "b": 100, "c": 100}
    leases: list[tuple[Lease, int]] = []
    with tempfile.TemporaryDirectory() as name:
        for step in steps:
            if isinstance(step, int):
                if step < len(leases):
                    lease, percent = leases.pop(step)
                    lease.release()
                    for device in lease.locks:
                        free[device] += percent
                continue
            count, percent = step
            expected = sorted((d for d in free if free[d] >= percent), key=lambda d: free[d])[:count]
            if len(expected) < count:
                with pytest.raises(WaitingError):
                    wait_for_devices(Path(name), list(free), count, percent, "job")
                continue
            lease = wait_for_devices(Path(name), list(free), count, percent, "job")
            assert list(lease.locks) == expected
            leases.append((lease, percent))
            for device in expected:
                free[device] -= percent
        for lease, _ in leases:
            lease.release()


@pytest.mark.parametrize(("count", "percent"), [(0, 100), (3, 100), (1, 0), (1, 101), (2, 50)])
def test_what_can_never_be_leased_is_not_waited_for(tmp_path: Path, count: int, percent: int) -> None:
    with pytest.raises(ValueError):
        wait_for_devices(tmp_path, ["0", "1"], count, percent, "job")


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        ({}, Wanted(0, 100)),
        ({"gpu": 0}, Wanted(0, 100)),
        ({"gpu": 2}, Wanted(2, 100)),
        ({"gpu": 1, "gpu_percent": 25}, Wanted(1, 25)),
        ({"gpu": 1, "gpu_percent": 100}, Wanted(1, 100)),
        ({"gpu": 3, "gpu_percent": 300}, Wanted(3, 100)),
    ],
)
def test_what_a_profile_gives(resources: dict[str, int], expected: Wanted) -> None:
    assert wanted_gpus(resources, "rule") == expected


@pytest.mark.parametrize(
    "resources",
    [
        {"gpu": -1}, {"gpu": "one"}, {"gpu": 1, "gpu_percent": 0}, {"gpu": 1, "gpu_percent": 101},
        {"gpu": 1, "gpu_percent": "a quarter"}, {"gpu": 2, "gpu_percent": 50}, {"gpu": 2, "gpu_percent": 100},
        {"gpu": 0, "gpu_percent": 25}, {"gpu_percent": 25},
    ],
)  # fmt: skip
def test_what_a_profile_cannot_give(resources: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"of rule finetune_model.*To mend: .*set-resources"):
        wanted_gpus(resources, "finetune_model")


def test_more_devices_than_there_are_is_an_error_and_no_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with pytest.raises(UserError, match=r"gpu=2, but 1 GPUs to use \(CUDA_VISIBLE_DEVICES=0\)"):
        lease_gpus({"gpu": 2}, "rule")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(UserError, match="gpu=1, but no GPUs to use"):
        lease_gpus({"gpu": 1}, "rule")


# --- The folder ---


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_other_users_can_take_turns(temporary: Path) -> None:
    before = os.umask(0o077)
    try:
        folder = lock_folder()
        wait_for_devices(folder, ["0"], 1, 100, "job").release()
    finally:
        os.umask(before)
    assert lock_folder() == folder and folder.parent == temporary
    # Everybody may make files there, and remove none of others.
    assert stat.S_IMODE(folder.stat().st_mode) == 0o1777
    assert {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()} == {0o666}


@pytest.mark.parametrize("make", [Path.touch, lambda path: path.symlink_to(path.parent)])
def test_a_folder_that_is_none_is_said(temporary: Path, make: Callable[[Path], object]) -> None:
    lock_folder().rmdir()
    make(temporary / lock_folder_name(temporary))
    with pytest.raises(UserError, match="locks of this machine's GPUs"):
        lock_folder()


def lock_folder_name(temporary: Path) -> str:
    """Return what the folder is called."""
    folder = lock_folder()
    folder.rmdir()
    return folder.name
