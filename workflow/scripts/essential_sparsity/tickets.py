"""Tickets: what is known of each output, who writes it or what was written; a small file below `results/.locks` each.

A ticket's lock is what `sole_writer.py` holds; its text is a note for other processes and for later runs.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import platform
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

RESULTS, TICKETS = "results", ".locks"
# What a file system says that has no locks.
NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)


def ticket_of(output: Path) -> Path:
    """Return the ticket of an output: the same by whatever path the results are reached.

    It is never removed: a lock on a removed file is no lock for the next who makes it.
    """
    results = results_of(output)
    return results / TICKETS / hashlib.sha256(output.relative_to(results).as_posix().encode()).hexdigest()[:32]


def results_of(output: Path) -> Path:
    """Return the folder of results that an output lies in; its own folder where there is none."""
    return next((folder for folder in reversed(output.parents) if folder.name == RESULTS), output.parent)


def read_note(ticket: Path) -> dict[str, Any]:
    """Return what a ticket says; nothing if it cannot be read."""
    try:
        note = json.loads(ticket.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return note if isinstance(note, dict) else {}


def write_note(ticket: Path, note: Mapping[str, Any]) -> None:
    """Write on a ticket, with this process's own name; on a full disk it stays empty, which says nothing."""
    with suppress(OSError):
        ticket.write_text(json.dumps({"process": os.getpid(), "host": platform.node(), **note}), encoding="utf-8")


def writer_of(ticket: Path) -> str:
    """Return the name of the process that wrote on a ticket last, for messages."""
    note = read_note(ticket)
    return f"process {note['process']} on {note['host']}" if {"process", "host"} <= note.keys() else "another process"
