"""Several processes: each knows its place, and what one of them raises reaches the caller."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

from essential_sparsity.errors import UserError
from essential_sparsity.run import processes
from essential_sparsity.run.exhaustion import is_out_of_memory
from essential_sparsity.run.processes import run_in_processes
from waiting import is_running, until


def add_up(folder: Path, rank: int) -> None:
    torch.distributed.init_process_group("gloo")
    total = torch.tensor([float(os.environ["RANK"]) + 1])
    torch.distributed.all_reduce(total)
    (folder / str(rank)).write_text(f"{total.item():g} {os.environ['WORLD_SIZE']} {os.environ['LOCAL_RANK']}")


def run_out_of_memory(rank: int) -> None:
    if rank:
        raise torch.OutOfMemoryError("no room")
    # Waits for the other one, which never comes.
    torch.distributed.init_process_group("gloo")


def complain(rank: int) -> None:
    raise UserError("the task", "a loss of nan", "a number", "lower the rate")


def end_badly(rank: int) -> None:
    raise ValueError(f"process {rank} has no idea")


def test_processes_know_each_other(tmp_path: Path) -> None:
    before = dict(os.environ)
    run_in_processes(partial(add_up, tmp_path), 2)
    assert [(tmp_path / rank).read_text() for rank in "01"] == ["3 2 0", "3 2 1"]
    assert dict(os.environ) == before


def test_a_process_that_has_no_memory_stops_those_that_wait_for_it() -> None:
    with pytest.raises(MemoryError, match="process 1: no room") as caught:
        run_in_processes(run_out_of_memory, 2)
    assert is_out_of_memory(caught.value), "so that the batch is halved"


def test_what_a_process_finds_wrong_is_said_as_it_said_it() -> None:
    with pytest.raises(UserError) as caught:
        run_in_processes(complain, 1)
    assert str(caught.value) == "the task: found a loss of nan; expected a number. To mend: lower the rate."


def test_another_failure_keeps_its_traceback() -> None:
    with pytest.raises(RuntimeError, match="process 0 has no idea"):
        run_in_processes(end_badly, 1)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends processes with their parent")
def test_a_process_whose_parent_has_ended_before_it_began_does_nothing(tmp_path: Path) -> None:
    if not (child := os.fork()):
        processes._work(0, partial(add_up, tmp_path), tmp_path, 1, parent=-1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends processes with their parent")
def test_no_process_outlives_the_one_that_waits_for_it(tmp_path: Path) -> None:
    (tmp_path / "stubborn.py").write_text(
        "import os, pathlib, signal, time\n"
        "def work(rank):\n"
        "    signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "    pathlib.Path(f'{rank}.pid').write_text(str(os.getpid()))\n"
        "    time.sleep(600)\n"
    )
    code = (
        "import stubborn\n"
        "from essential_sparsity.run.processes import run_in_processes\n"
        "run_in_processes(stubborn.work, 2)"
    )
    library = str(Path(__file__).resolve().parents[3] / "workflow" / "scripts")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([library, str(tmp_path)])}
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, env=environment)
    try:
        files = [tmp_path / "0.pid", tmp_path / "1.pid"]
        until(lambda: all(file.exists() and file.read_text() for file in files))
    finally:
        parent.kill()
        parent.wait()
    workers = [int(file.read_text()) for file in files]
    until(lambda: not any(map(is_running, workers)))
