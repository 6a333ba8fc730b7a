"""Fork each job from one process that has imported what jobs import: a small job starts in a fraction of a second.

A child of the main process on two pipes. What is to run comes down its standard input, a line of JSON a job; the status
of each job that has ended goes up the other, a line as well. It ends with the main process, and its jobs end with it.

It has one thread, whatever number of threads jobs have, since of a thread a forked process has only the locks.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import pkgutil
import runpy
import selectors
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from itertools import count
from pathlib import Path
from typing import Any

SCRIPTS = Path(__file__).resolve().parent / "scripts"
# What jobs import besides the library and what that imports: Snakemake's for every script, and what is loaded lazily.
_IMPORTED = (
    "snakemake.iocontainers", "snakemake.logging", "snakemake.script", "transformers.trainer",
    "transformers.models.auto.modeling_auto", "transformers.models.auto.tokenization_auto",
)  # fmt: skip
_END_WITH_PARENT = 1  # PR_SET_PDEATHSIG of prctl(2)
# A thread of pyarrow's allocator would be here, and not in the processes that are forked.
_ONE_THREAD = {"JE_ARROW_MALLOC_CONF": "background_thread:false"} | dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"
)
# Activations are freed and asked for again with every batch: up to these sizes (bytes) the C library keeps their pages.
_KEPT_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(32 << 20), "MALLOC_TRIM_THRESHOLD_": str(256 << 20)}


class WarmProcess:
    """The main process's end: starts the child with the first job, and runs jobs in forks of it."""

    def __init__(self, modules: tuple[str, ...] = ()) -> None:
        self._command = [sys.executable, __file__, *modules]
        self._lock = threading.Lock()
        self._numbers = count()
        self._ends: dict[int, Future[int]] = {}
        self._child: subprocess.Popen[str] | None = None
        self._serves = False

    def run(self, script: str, threads: int, environment: Mapping[str, str]) -> int | None:
        """Run a script as the interpreter would, and wait for its end.

        Args:
            script: The script's path.
            threads: How many it may use.
            environment: What it finds in its environment besides what this process has.

        Returns:
            Its status, minus the number of a signal that ended it; None if there is no process to fork, and nothing was
            run.
        """
        with self._lock:
            child = self._child or self._start()
            if not self._serves:
                return None
            number, end = next(self._numbers), Future[int]()
            job = {"number": number, "script": script, "threads": threads, "environment": dict(environment)}
            try:
                print(json.dumps(job), file=child.stdin, flush=True)
            except OSError:
                return None
            self._ends[number] = end
        return end.result()

    def _start(self) -> subprocess.Popen[str]:
        answers, theirs = os.pipe()
        command = [*self._command[:2], str(theirs), *self._command[2:]]
        environment = {**_KEPT_MEMORY, **os.environ, **_ONE_THREAD}
        self._child = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=[theirs], env=environment, text=True)
        os.close(theirs)
        lines = os.fdopen(answers)
        # Once it has imported everything, it says so; if it cannot serve, it ends.
        self._serves = bool(lines.readline())
        threading.Thread(target=self._listen, args=[lines], daemon=True).start()
        return self._child

    def _listen(self, lines: Any) -> None:
        for line in lines:
            number, status = json.loads(line)
            with self._lock:
                end = self._ends.pop(number)
            end.set_result(status)
        # It is gone, and its jobs with it.
        with self._lock:
            self._serves = False
        for end in self._ends.values():
            end.set_result(-signal.SIGKILL)


def main(answers: int, *modules: str) -> None:
    """Serve jobs until standard input ends.

    Args:
        answers: The descriptor of the pipe that statuses go to.
        modules: What to import; without any, what jobs of the workflow import.
    """
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # Jobs get them themselves, and the main process ends this one.
        signal.signal(name, signal.SIG_IGN)
    for module in modules or (*_IMPORTED, *_library()):
        importlib.import_module(module)
    # No collection of garbage touches what is imported: its pages stay shared with all jobs.
    gc.collect()
    gc.freeze()
    if len(os.listdir("/proc/self/task")) > 1:
        print("A library has started a thread: jobs start by themselves, some seconds later each.", file=sys.stderr)
        return
    serve(answers)


def _library() -> list[str]:
    sys.path[0] = str(SCRIPTS)
    package = importlib.import_module("essential_sparsity")
    return [module.name for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")]


def serve(answers: int) -> None:
    """Fork a process for each line of standard input, and write the status of each that ends."""
    requests, begun = os.dup(0), b""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    events = selectors.DefaultSelector()
    events.register(requests, selectors.EVENT_READ)
    # Of each job its number and process, by a descriptor that can be read once the process has ended.
    jobs: dict[int, tuple[int, int]] = {}
    os.write(answers, b"ready\n")
    while True:
        for key, _ in events.select():
            if key.fd in jobs:
                number, process = jobs.pop(key.fd)
                events.unregister(key.fd)
                os.close(key.fd)
                status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
                os.write(answers, f"{json.dumps([number, status])}\n".encode())
            elif more := os.read(requests, 1 << 16):
                *lines, begun = (begun + more).split(b"\n")
                for job in map(json.loads, lines):
                    process = _fork(job, [answers, requests, *jobs])
                    ended = os.pidfd_open(process)
                    jobs[ended] = job["number"], process
                    events.register(ended, selectors.EVENT_READ)
            else:
                for _, process in jobs.values():
                    os.kill(process, signal.SIGKILL)
                return


def _fork(job: Mapping[str, Any], not_its_own: list[int]) -> int:
    parent = os.getpid()
    process = os.fork()
    if process == 0:
        status = 1
        try:
            for descriptor in not_its_own:
                os.close(descriptor)
            ctypes.CDLL(None).prctl(_END_WITH_PARENT, signal.SIGKILL)
            if os.getppid() == parent:
                status = status_of(lambda: _run(job))
                for stream in (sys.stdout, sys.stderr):
                    stream.flush()
        finally:
            # Handlers that wait for an interpreter's end are not the job's.
            os._exit(status)
    return process


def _run(job: Mapping[str, Any]) -> None:
    """Run a job's script, in its own process."""
    from threadpoolctl import threadpool_limits

    for name in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.update(job["environment"])
    threadpool_limits(job["threads"])
    sys.argv, sys.path[0] = [job["script"]], os.path.dirname(job["script"])
    runpy.run_path(job["script"], run_name="__main__")


def status_of(script: Callable[[], object]) -> int:
    """Return the status that an interpreter ends with after this."""
    try:
        script()
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
