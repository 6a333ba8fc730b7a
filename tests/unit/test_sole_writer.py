"""One process at a time writes a job's outputs; who comes second waits, and does nothing twice."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from essential_sparsity.errors import UserError
from essential_sparsity.sole_writer import sole_writer
from essential_sparsity.tickets import ticket_of

LIBRARY = str(Path(__file__).resolve().parents[2] / "workflow" / "scripts")
OUTPUTS = ["results/pretraining/a/index.json", "results/costs/a.json"]
Start = Callable[..., subprocess.Popen[str]]

# Notes in a journal when it begins and ends; in between it waits for a file with its number.
WRITER = f"""
    import os, sys, time
    from pathlib import Path
    from essential_sparsity.sole_writer import sole_writer
    number, does, outputs = sys.argv[1], sys.argv[2], {OUTPUTS}
    def tell(text):
        print(text, file=sys.stderr, flush=True)
    def note(text):
        with open("journal", "a") as file:
            print(text, number, file=file, flush=True)
    with sole_writer(outputs, ["input"], does, tell) as turn:
        tell(turn.note)
        if turn.to_do:
            note("begins")
            if does == "forks" and os.fork() == 0:
                time.sleep(600)
            while not Path("go " + number).exists():
                time.sleep(0.02)
            for output in map(Path, outputs):
                output.parent.mkdir(parents=True, exist_ok=True)
                output.write_text(number)
            note("ends")
"""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a writer in a process group of its own; none outlives the test."""
    (tmp_path / "input").write_text("1")
    with ExitStack() as stack:

        def begin(number: int, does: str = "job") -> subprocess.Popen[str]:
            process = subprocess.Popen(
                [sys.executable, "-c", textwrap.dedent(WRITER), str(number), does], cwd=tmp_path,
                stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": LIBRARY}, start_new_session=True,
            )  # fmt: skip
            stack.callback(end, process)
            return process

        yield begin


def end(process: subprocess.Popen[str]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stderr:
        process.stderr.close()


def journal(folder: Path, lines: int) -> list[str]:
    """Wait until so many lines are in the journal."""
    file, deadline = folder / "journal", time.monotonic() + 120
    found: list[str] = []
    while time.monotonic() < deadline:
        found = file.read_text().splitlines() if file.exists() else []
        if len(found) >= lines:
            return found
        time.sleep(0.02)
    raise AssertionError(f"{found} after two minutes")


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stderr
    return process.stderr.readline()


def go(folder: Path, number: int) -> None:
    (folder / f"go {number}").touch()


def test_who_comes_second_waits_and_says_for_whom(start: Start, tmp_path: Path) -> None:
    first = start(0, "one thing")
    assert journal(tmp_path, 1) == ["begins 0"]
    second = start(1, "another thing")
    assert first_line(second).startswith(f"process {first.pid} on ")
    # It has not begun, and does so once the first has ended.
    assert journal(tmp_path, 1) == ["begins 0"]
    go(tmp_path, 0)
    go(tmp_path, 1)
    assert "waited " in second.communicate()[1]
    assert (first.wait(), second.returncode) == (0, 0)
    assert journal(tmp_path, 4) == ["begins 0", "ends 0", "begins 1", "ends 1"]


def test_what_was_done_while_waiting_is_not_done_again(start: Start, tmp_path: Path) -> None:
    first = start(0)
    journal(tmp_path, 1)
    second = start(1)
    assert "waiting until it ends" in first_line(second)
    go(tmp_path, 0)
    assert f"process {first.pid} on" in (said := second.communicate()[1]) and "nothing is left to do" in said
    assert journal(tmp_path, 2) == ["begins 0", "ends 0"]
    # Who need not wait was asked to do it, whatever was done before.
    go(tmp_path, 2)
    assert start(2).wait() == 0
    assert journal(tmp_path, 4)[2:] == ["begins 2", "ends 2"]


def test_what_was_made_of_older_inputs_is_made_again(start: Start, tmp_path: Path) -> None:
    start(0)
    journal(tmp_path, 1)
    second = start(1)
    assert "waiting until it ends" in first_line(second)
    (tmp_path / "input").write_text("2")
    go(tmp_path, 0)
    go(tmp_path, 1)
    assert second.wait() == 0
    assert journal(tmp_path, 4) == ["begins 0", "ends 0", "begins 1", "ends 1"]


@pytest.mark.parametrize("does", ["waits", "forks"])
def test_a_killed_process_lets_go_even_if_one_that_it_forked_lives_on(start: Start, tmp_path: Path, does: str) -> None:
    first = start(0, does)
    journal(tmp_path, 1)
    second = start(1, does)
    assert "waiting until it ends" in first_line(second)
    first.kill()
    go(tmp_path, 1)
    # The one that was killed has not finished: its work is done anew.
    assert journal(tmp_path, 3)[:3] == ["begins 0", "begins 1", "ends 1"]


def test_locks_lie_with_the_results_and_tell_outputs_apart(tmp_path: Path) -> None:
    one, other = Path("results/masks/a.safetensors"), Path("results/masks/b.safetensors")
    assert ticket_of(one).parent == Path("results/.locks")
    assert ticket_of(one) != ticket_of(other)
    # By an absolute path it is the same output.
    assert ticket_of(tmp_path / one) == tmp_path / ticket_of(one)


def test_a_file_system_without_locks_is_worked_on_with_a_remark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr("fcntl.flock", refuse)
    with sole_writer(OUTPUTS, [], "job", print) as turn:
        assert turn.to_do
        assert "without locks" in turn.note


def test_results_that_cannot_be_written_are_a_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results").write_text("a file where a folder should be")
    with pytest.raises(UserError, match=r"results.*no way to write it") as raised, sole_writer(OUTPUTS, [], "", print):
        pass
    assert "run again" in raised.value.mend
