"""Results from the future are given times that are past, in an order that says the same of what is outdated."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from hypothesis import given, settings
from hypothesis import strategies as st

from essential_sparsity import clocks
from essential_sparsity.clocks import SetBack, await_inputs, check_times, file_system_time, set_back
from essential_sparsity.errors import UserError
from essential_sparsity.integrity import check_inputs, modified, restore_times
from essential_sparsity.sole_writer import sole_writer
from essential_sparsity.tickets import NO_LOCKS, read_note, ticket_of

RESULTS = Path("results")
DAY = 24 * 3600 * 10**9


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    RESULTS.mkdir()
    return tmp_path


def set_time(path: Path, time: int) -> None:
    os.utime(path, ns=(time, time))


def made(name: str, ahead: int = 0) -> Path:
    """Make a result as a job does, by a clock that is some time ahead."""
    path = RESULTS / name
    with sole_writer([str(path)], [], f"makes {path}", print):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
        set_time(path, modified(path) + ahead)
    return path


def seconds(path: Path) -> float:
    """Return a file's time as Snakemake sees it."""
    return path.stat().st_mtime


# Half a second ago, and minutes or days away, in microseconds: Snakemake's floats of seconds are no finer.
MINUTE = 60 * 10**6
OFFSETS = st.one_of(
    st.integers(-5 * 10**5, -(2 * 10**4)),
    st.integers(-3 * DAY // 1000, -MINUTE),
    st.integers(MINUTE, 3 * DAY // 1000),
    st.sampled_from([DAY // 1000, DAY // 1000 + 1, 2 * DAY // 1000]),
)


@settings(deadline=None)
@given(st.lists(OFFSETS, min_size=1, max_size=8))
def test_the_order_stays_and_nothing_is_left_ahead(
    tmp_path_factory: pytest.TempPathFactory, offsets: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("order") / "results"
    folder.mkdir()
    now = time.time_ns()
    paths = [folder / str(number) for number in range(len(offsets))]
    for path, offset in zip(paths, offsets, strict=True):
        path.touch()
        set_time(path, now + 1000 * offset)
    before = {path: seconds(path) for path in paths}
    assert set(set_back(folder).mended) == {path for path, offset in zip(paths, offsets, strict=True) if offset > 0}
    latest = file_system_time(folder)
    for one in paths:
        assert modified(one) <= latest
        assert (seconds(one) == before[one]) or before[one] > now / 1e9
        for other in paths:
            # What Snakemake asks: whether an input is newer than an output.
            assert (seconds(one) > seconds(other)) == (before[one] > before[other])


def test_what_was_finished_in_the_past_is_as_old_as_it_was() -> None:
    mask = made("masks/a.safetensors")
    row = made("evaluations/a.parquet")
    finished = modified(mask)
    set_time(mask, time.time_ns() + DAY)
    assert set_back(RESULTS) == SetBack([mask], [])
    assert modified(mask) == finished < modified(row)
    check_inputs([mask, row])


def test_what_a_clock_that_was_ahead_has_dated_is_newer_than_what_it_makes_outdated() -> None:
    row = made("evaluations/a.parquet")
    mask = made("masks/a.safetensors", ahead=DAY)
    newer = made("evaluations/b.parquet", ahead=DAY)
    assert set(set_back(RESULTS).mended) == {mask, newer}
    assert modified(row) < modified(mask) < modified(newer) <= file_system_time(RESULTS)
    assert read_note(ticket_of(mask))["modified"] == modified(mask)
    assert read_note(ticket_of(mask)).keys() >= {"checksum", "did", "path"}
    assert set_back(RESULTS) == SetBack([], [])


def test_they_are_newer_than_what_else_they_were_made_of() -> None:
    texts = Path("texts.csv")
    texts.touch()
    mask = made("masks/a.safetensors", ahead=DAY)
    time.sleep(0.02)
    set_back(RESULTS)
    assert modified(texts) < modified(mask) <= file_system_time(RESULTS)


def test_a_file_that_is_being_written_or_lies_behind_a_link_is_known(tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    (RESULTS / "masks").symlink_to(tmp_path / "scratch")
    (tmp_path / "scratch" / "loop").symlink_to(RESULTS.resolve())
    mask = made("masks/a.safetensors", ahead=DAY)
    later = modified(mask)
    with FileLock(ticket_of(mask)):
        assert mask in set_back(RESULTS).left
        assert modified(mask) == later
    assert mask in set_back(RESULTS).mended
    assert modified(mask) < later


def test_bytes_that_are_made_again_are_not_given_back_a_time_that_lies_ahead() -> None:
    mask = made("masks/a.safetensors", ahead=DAY)
    mask.unlink()
    made("masks/a.safetensors")
    restore_times(RESULTS)
    assert modified(mask) <= file_system_time(RESULTS)


def test_what_is_not_there_or_not_ours_is_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert set_back(Path("missing")) == SetBack([], [])
    mask = made("masks/a.safetensors", ahead=DAY)
    later = modified(mask)

    real = os.utime

    def refuse(path: Path | int, ns: tuple[int, int]) -> None:
        if path == mask:
            raise PermissionError("not yours")
        real(path, ns=ns)

    monkeypatch.setattr(clocks.os, "utime", refuse)
    assert set_back(RESULTS) == SetBack([], [mask])
    assert modified(mask) == later


def test_a_job_waits_for_an_input_that_is_a_little_ahead_and_refuses_one_that_is_further() -> None:
    mask = made("masks/a.safetensors")
    now = file_system_time(RESULTS)
    set_time(mask, now + 2 * 10**8)
    await_inputs([mask, RESULTS / "missing"], now)
    assert file_system_time(RESULTS) >= modified(mask)
    set_time(mask, now + DAY)
    with pytest.raises(UserError, match=r"masks/a\.safetensors: found the time .* in the future") as raised:
        await_inputs([mask], now)
    assert "are then set back" in raised.value.mend
    own = Path("texts.csv")
    own.touch()
    set_time(own, now + 2 * DAY)
    with pytest.raises(UserError, match=r"texts\.csv") as raised:
        await_inputs([mask, own], now)
    assert "touch 'texts.csv'" in raised.value.mend
    await_inputs([], now)


def test_a_source_from_the_future_is_refused_and_left_as_it_is() -> None:
    own = Path("it's mine.csv")
    own.touch()
    now = file_system_time(RESULTS)
    check_times([own, Path("missing")], now)
    later = time.time_ns() + DAY
    set_time(own, later)
    with pytest.raises(UserError, match=r"it's mine\.csv") as raised:
        check_times([own], now)
    assert "touch" in raised.value.mend
    assert modified(own) == later


def test_times_of_whole_seconds_hold_no_order_and_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.utime

    def cut(path: Path | int, ns: tuple[int, int]) -> None:
        real(path, ns=(ns[0] // 10**9 * 10**9, ns[1] // 10**9 * 10**9))

    mask = made("masks/a.safetensors")
    monkeypatch.setattr(clocks.os, "utime", cut)
    cut(mask, (0, modified(mask) + DAY))
    # It was finished in the past: there is nothing to order.
    assert set_back(RESULTS).mended == [mask]
    other = made("masks/b.safetensors", ahead=DAY)
    with pytest.raises(UserError, match=r"b\.safetensors"):
        set_back(RESULTS)
    assert modified(other) > file_system_time(RESULTS)


def test_a_file_system_without_locks_is_set_back_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    mask = made("masks/a.safetensors", ahead=DAY)

    def lack(*_: object, **__: object) -> None:
        raise OSError(NO_LOCKS[0], "no locks")

    monkeypatch.setattr(FileLock, "acquire", lack)
    assert set_back(RESULTS).mended == [mask]


def test_what_goes_while_it_is_looked_at_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    mask = made("masks/a.safetensors", ahead=DAY)
    going = RESULTS / "going"
    going.mkdir()
    real = os.scandir

    def slow(folder: str) -> Any:
        if Path(folder) == going:
            going.rmdir()
        return real(folder)

    monkeypatch.setattr(clocks.os, "scandir", slow)
    assert set_back(RESULTS).mended == [mask]
    assert not going.exists()
