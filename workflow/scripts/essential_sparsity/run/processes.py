"""One piece of work in several processes that talk to each other: one a GPU, as torch's launchers start them."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.multiprocessing.spawn import ProcessException, spawn

from essential_sparsity.errors import UserError
from essential_sparsity.files import read_json, write_json
from essential_sparsity.run.exhaustion import is_out_of_memory

_HOST = "127.0.0.1"
_END_WITH_PARENT = 1  # PR_SET_PDEATHSIG of prctl(2)


def run_in_processes(work: Callable[[int], None], processes: int) -> None:
    """Run a piece of work in several processes at once, and wait for all of them.

    The environment says to each what it says under ``torchrun``: ``RANK``, ``LOCAL_RANK``, ``WORLD_SIZE`` and where the
    first process listens. If one fails, the others are stopped.

    Args:
        work: Called with the process's rank in each; something that can be pickled.
        processes: How many.

    Raises:
        UserError: One of the processes raised it.
        MemoryError: One of them ran out of memory, of its GPU or its system.
        RuntimeError: One of them failed otherwise; its traceback is in the message.
    """
    shared = {"WORLD_SIZE": str(processes), "MASTER_ADDR": _HOST, "MASTER_PORT": str(_free_port())}
    threads, parent = max(1, torch.get_num_threads() // processes), os.getpid()
    with tempfile.TemporaryDirectory() as name, _environment(shared):
        folder = Path(name)
        try:
            spawn(_work, (work, folder, threads, parent), processes)
        except ProcessException as error:
            # The one that failed first wrote why; those that were stopped because of it may say something else.
            for file in sorted(folder.glob("*.json"), key=lambda file: file.stat().st_mtime_ns):
                said = read_json(file)
                if said["kind"] == "memory":
                    raise MemoryError(said["text"]) from error
                raise UserError(*said["parts"]) from error
            raise RuntimeError(str(error)) from error


def _work(rank: int, work: Callable[[int], None], folder: Path, threads: int, parent: int) -> None:
    """Do the work of one process; write down what an exception's text would lose."""
    if sys.platform == "linux":
        # Torch asks for an interrupt, which waits for compiled code. States may not be written beside the next job's.
        ctypes.CDLL(None).prctl(_END_WITH_PARENT, signal.SIGKILL)
        if os.getppid() != parent:  # It has ended already.
            os._exit(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    torch.set_num_threads(threads)
    # The other processes would say the same things again.
    level = logging.INFO if rank == 0 else logging.ERROR
    logging.basicConfig(stream=sys.stderr, level=level, format="%(asctime)s %(levelname)s %(message)s", force=True)
    try:
        work(rank)
    except UserError as error:
        parts = [error.where, error.found, error.expected, error.mend]
        write_json(folder / f"{rank}.json", {"kind": "user", "parts": parts})
        raise
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            write_json(folder / f"{rank}.json", {"kind": "memory", "text": f"process {rank}: {error}"})
        raise
    finally:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind((_HOST, 0))
        return int(listener.getsockname()[1])


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set variables of the environment for the processes that are started meanwhile."""
    before = {name: os.environ.get(name) for name in values}
    os.environ |= values
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
