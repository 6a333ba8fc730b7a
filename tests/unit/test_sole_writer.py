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
from essential_sparsity.sole_writer import lock_file, sole_writer

LIBRARY = str(Path(__file__).resolve().parents[2] / "workflow" / "scripts")
OUTPUT = "results/pretraining/a/index.json"
Start = Callable[..., subprocess.Popen[str]]

# Writes its number at its begin and its end, with its work in between; a second argument is what it does.
WRITER = """
    import os, sys, time
    from pathlib import Path
    from essential_sparsity.sole_writer import sole_writer
    number, does, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
    def tell(text):
        print(text, file=sys.stderr, flush=True)
    def note(text):
        with open("journal", "a") as file:
            print(text, number, file=file, flush=True)
    with sole_writer(["results/pretraining/a/index.json"], ["input"], does, tell) as turn:
        tell(turn.note)
        if turn.to_do:
            note("begins")
            if does == "forks" and os.fork() == 0:
                time.sleep(60)
            time.sleep(seconds)
            Path("results/pretraining/a").mkdir(parents=True, exist_ok=True)
            Path("results/pretraining/a/index.json").write_text(number)
            note("ends")
"""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a writer in a process (group) of its own; none outlives the test."""
    (tmp_path / "input").write_text("1")
    with ExitStack() as stack:

        def begin(number: int, does: str = "job", seconds: float = 0.3) -> subprocess.Popen[str]:
            process = subprocess.Popen(
                [sys.executable, "-c", textwrap.dedent(WRITER), str(number), does, str(seconds)], cwd=tmp_path,
                stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": LIBRARY}, start_new_session=True,
            )  # fmt: skip
            stack.callback(end, process)
            return process

        yield begin


def end(process: subprocess.Popen[str]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def journal(folder: Path, lines: int) -> list[str]:
    """Wait until so many lines are in the journal."""
    file, deadline = folder / "journal", time.monotonic() + 30
    while time.monotonic() < deadline:
        found = file.read_text().splitlines() if file.exists() else []
        if len(found) >= lines:
            return found
        time.sleep(0.02)
    raise AssertionError(f"{found} after 30 s")


def test_no_two_write_at_once_and_the_later_ones_say_whom_they_wait_for(start: Start, tmp_path: Path) -> None:
    first = start(0, "one thing", 0.5)
    assert journal(tmp_path, 1) == ["begins 0"]
    others = [start(number, f"thing {number}", 0.1) for number in (1, 2)]
    said = [process.communicate(timeout=60)[1] for process in others]
    first.wait(timeout=60)
    lines = journal(tmp_path, 6)
    # Each begins only after the one before has ended.
    assert [line.split()[0] for line in lines] == ["begins", "ends"] * 3
    assert [line.split()[1] for line in lines[::2]] == [line.split()[1] for line in lines[1::2]]
    assert any(f"process {first.pid} on " in text for text in said)
    assert all("waiting until it ends" in text and "waited " in text for text in said)


def test_what_was_done_while_waiting_is_not_done_again(start: Start, tmp_path: Path) -> None:
    first = start(0)
    journal(tmp_path, 1)
    second = start(1)
    said = second.communicate(timeout=60)[1]
    assert (first.wait(), second.returncode) == (0, 0)
    assert journal(tmp_path, 2) == ["begins 0", "ends 0"]
    assert f"process {first.pid} on" in said and "nothing is left to do" in said
    # Who need not wait was asked to do it, whatever was done before.
    assert start(2).wait() == 0
    assert journal(tmp_path, 4)[2:] == ["begins 2", "ends 2"]


def test_what_was_made_of_older_inputs_is_made_again(start: Start, tmp_path: Path) -> None:
    start(0, seconds=0.6)
    journal(tmp_path, 1)
    (tmp_path / "input").write_text("2")
    assert start(1).wait() == 0
    assert journal(tmp_path, 4) == ["begins 0", "ends 0", "begins 1", "ends 1"]


@pytest.mark.parametrize("does", ["waits", "forks"])
def test_a_killed_process_lets_go_even_if_one_that_it_forked_lives_on(start: Start, tmp_path: Path, does: str) -> None:
    first = start(0, does, 60)
    journal(tmp_path, 1)
    second = start(1, does, 0)
    time.sleep(0.3)
    first.kill()
    if does == "forks":
        journal(tmp_path, 3)
    else:
        assert second.wait(timeout=30) == 0
    # The one that was killed has not finished: its work is done anew.
    assert journal(tmp_path, 3)[:3] == ["begins 0", "begins 1", "ends 1"]


def test_locks_lie_with_the_results_and_tell_outputs_apart(tmp_path: Path) -> None:
    one, other = Path("results/masks/a.safetensors"), Path("results/masks/b.safetensors")
    assert lock_file(one).parent == Path("results/.locks")
    assert lock_file(one) != lock_file(other)
    # By an absolute path it is the same output.
    assert lock_file(tmp_path / one) == tmp_path / lock_file(one)


def test_a_file_system_without_locks_is_worked_on_with_a_remark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr("fcntl.flock", refuse)
    with sole_writer([OUTPUT], [], "job", print) as turn:
        assert turn.to_do
        assert "without locks" in turn.note


def test_results_that_cannot_be_written_are_a_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results").write_text("a file where a folder should be")
    with pytest.raises(UserError, match=r"results.*no way to write it") as raised, sole_writer([OUTPUT], [], "", print):
        pass
    assert "run again" in raised.value.mend
