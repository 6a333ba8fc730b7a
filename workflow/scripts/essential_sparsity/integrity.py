"""Whether files hold the bytes that were written: every job notes checksums of its outputs and checks its inputs.

The checksum is XXH3 of 128 bits: it tells accidents, and several gigabytes a second cost a job little beside reading
them. What could be forged is checked by SHA-256 where it comes in (`hub.py`, `sources.py`).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import xxhash
from filelock import FileLock, Timeout

from essential_sparsity.errors import UserError, quoted
from essential_sparsity.tickets import TICKETS, read_note, results_of, ticket_of, write_note

_CHUNK = 1 << 22
DAMAGED = "damaged"


def checksum(path: Path) -> str:
    """Return the XXH3 (128 bits) of a file as 32 hexadecimal digits."""
    digest = xxhash.xxh3_128()
    with open(path, "rb", buffering=0) as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def modified(path: Path) -> int:
    """Return when a file was last written, in ns, by the clock of its file system."""
    return path.stat().st_mtime_ns


def note_outputs(outputs: Iterable[Path], inputs: Iterable[Path], note: Mapping[str, Any]) -> None:
    """Write the checksums and the times of a job's outputs on their tickets.

    An output whose bytes are those of before may be as old as before: what was made of it need not be made again. Since
    Snakemake gives outputs a time of their own when the job has ended, :func:`restore_times` gives it back.

    Args:
        outputs: What the job wrote; the process holds the locks of their tickets.
        inputs: What it read.
        note: What else to write on the tickets.
    """
    newest = max((_time_of(path) for path in inputs if path.exists()), default=0)
    for path in filter(Path.is_file, outputs):
        ticket, found = ticket_of(path), {"path": str(path), "checksum": checksum(path)}
        before = read_note(ticket).get("before", {})
        written = modified(path)
        same = before.get("checksum") == found["checksum"] and newest <= before.get("modified", 0) <= written
        time = before["modified"] if same else written
        write_note(ticket, {**note, **found, "modified": time, "unchanged": same})
        mark_of(path).unlink(missing_ok=True)


def _time_of(path: Path) -> int:
    """Return when a file was last written with other bytes than before: Snakemake sets its time whenever it is made."""
    note = read_note(ticket_of(path))
    return int(note["modified"]) if note.get("unchanged") else modified(path)


def restore_times(results: Path) -> None:
    """Give outputs that were made again with the same bytes the times that they had before."""
    for note in map(read_note, (results / TICKETS).iterdir()):
        path = results.parent / note.get("path", "")
        if note.get("unchanged") and path.is_file():
            os.utime(path, ns=(path.stat().st_atime_ns, note["modified"]))


def last_made(ticket: Path) -> dict[str, Any]:
    """Return what a ticket says of the file that was made last: its checksum and its time; nothing if it never was."""
    note = read_note(ticket)
    return {key: note[key] for key in ("checksum", "modified")} if "checksum" in note else dict(note.get("before", {}))


def check_inputs(inputs: Iterable[Path]) -> None:
    """Check the bytes of a job's inputs, as far as a job of the workflow wrote them.

    Raises:
        UserError: Some are other bytes than were written. They are removed, so that they are made again.
    """
    damaged = [path for path in dict.fromkeys(inputs) if path.is_file() and _differs(path) and discard(path)]
    if damaged:
        raise UserError(
            where=", ".join(map(str, damaged)),
            found="other bytes than were written there: damage that no job does",
            expected=f"the checksum that is noted in {results_of(damaged[0]) / TICKETS}",
            mend=f"check the disk, then run again: {quoted(map(str, damaged))} was removed and is made again",
        )


def check_all(results: Path) -> tuple[int, list[str]]:
    """Check every file below a folder of results that jobs noted a checksum of; remove those that differ.

    Returns:
        How many were checked, and the paths of those that are damaged.
    """
    noted = [note["path"] for note in map(read_note, sorted((results / TICKETS).iterdir())) if "checksum" in note]
    # As jobs name them: from the folder that holds the results.
    paths = {name: results.parent / name for name in sorted(noted)}
    damaged = [name for name, path in paths.items() if path.is_file() and _differs(path) and discard(path)]
    return sum(path.is_file() for path in paths.values()) + len(damaged), damaged


def discard(path: Path) -> bool:
    """Remove a damaged file, and mark it as one to be made again, unless a writer has replaced it meanwhile.

    Returns:
        Whether it was damaged.
    """
    try:
        with FileLock(ticket_of(path), fallback_to_soft=False, timeout=600):
            if not _differs(path):
                return False
            logging.error("%s: %d bytes that do not have the checksum that is noted", path, path.stat().st_size)
            mark_of(path).parent.mkdir(exist_ok=True)
            # As jobs name it, from whatever folder it was found.
            mark_of(path).write_text(read_note(ticket_of(path))["path"], encoding="utf-8")
            path.unlink()
    except (OSError, Timeout) as error:
        # It stays where nobody may write: the message says so all the same.
        logging.warning("%s cannot be removed: %s", path, error)
    return True


def mark_of(path: Path) -> Path:
    """Return the file that marks an output as damaged; it holds the output's path."""
    ticket = ticket_of(path)
    return ticket.parent / DAMAGED / ticket.name


def damaged_files(results: Path) -> list[str]:
    """Return the paths that are marked as damaged and were not made again."""
    marks = sorted((results / TICKETS / DAMAGED).glob("*"))
    return [mark.read_text(encoding="utf-8") for mark in marks]


def _differs(path: Path) -> bool:
    """Say whether a file has another checksum than its ticket says; one that says none proves nothing."""
    noted = read_note(ticket_of(path)).get("checksum")
    return noted is not None and path.is_file() and checksum(path) != noted
