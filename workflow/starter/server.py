"""Fork a process for each job of a run, from one that has imported what jobs import.

A job spends seconds on imports before it does anything. Here they are paid once a run: the server imports the library,
and whatever a job had to import besides is imported before the next one. Its jobs are processes of their own,
like those of an interpreter: nothing that a job does reaches the server or another job.

It serves only clients of the user's own, whose folder it is, and reads nothing from them but JSON. It ends with the
run, and its jobs end with it.
"""

from __future__ import annotations

import array
import ctypes
import gc
import importlib
import json
import os
import pkgutil
import runpy
import selectors
import shutil
import signal
import socket
import struct
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from client import SOCKET, is_own

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"
_TIMEOUT = 10.0
_REQUEST = {"likeness", "script", "directory", "environment", "umask"}
# Bytes of a request: the environment of a process has a few megabytes at most.
_LONGEST_REQUEST = 64 << 20
_END_WITH_PARENT = 1  # PR_SET_PDEATHSIG of prctl(2)


@dataclass(frozen=True)
class Job:
    """A job that runs.

    Attributes:
        process: Its process.
        ended: A descriptor that can be read once the process has ended.
        client: The connection to the client that waits for it.
        learnt: A file in memory in which it names what it imported.
    """

    process: int
    ended: int
    client: socket.socket
    learnt: int


def import_library() -> None:
    """Import what jobs are started with, and every module of the library."""
    sys.path[0] = str(SCRIPTS)
    for name in ("snakemake.iocontainers", "snakemake.logging", "snakemake.script"):
        importlib.import_module(name)
    # Before torch and transformers.
    package = importlib.import_module("essential_sparsity")
    importlib.import_module("essential_sparsity.quick_start")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")


def keep() -> None:
    """Let no collection of garbage touch what is imported: its pages stay shared with all jobs."""
    gc.collect()
    gc.freeze()


def installed(names: Iterable[str]) -> list[str]:
    """Return those of the loaded modules that are installed: no script's own, and none that came with a model."""
    folders = tuple({sysconfig.get_path(name) + os.sep for name in ("stdlib", "purelib", "platlib")})
    specs = ((name, getattr(sys.modules.get(name), "__spec__", None)) for name in names)
    return [name for name, spec in specs if spec and str(spec.origin).startswith(folders)]


def learn(names: Iterable[str]) -> None:
    """Import what a job had to import."""
    for name in names:
        if name not in sys.modules:
            try:
                importlib.import_module(name)
            except Exception:
                # The jobs that need it import it themselves, and say what is wrong.
                print(traceback.format_exc(), flush=True)


def single_threaded() -> bool:
    """Say whether this process has one thread: of others, a forked process would have the locks but not the thread."""
    return len(os.listdir("/proc/self/task")) == 1


def receive(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Return a client's request, and its standard streams."""
    connection.settimeout(_TIMEOUT)
    room = socket.CMSG_SPACE(3 * array.array("i").itemsize)
    size, messages, *_ = connection.recvmsg(4, room)
    length = int.from_bytes(size, "big")
    streams = array.array("i")
    for _, _, data in messages:
        streams.frombytes(data[: len(data) - len(data) % streams.itemsize])
    if length > _LONGEST_REQUEST:
        raise ValueError(f"a request of {length} bytes")
    message = connection.recv(length, socket.MSG_WAITALL)
    connection.settimeout(None)
    request = json.loads(message)
    if not isinstance(request, dict) or request.keys() != _REQUEST:
        raise ValueError("no request for a job")
    return request, list(streams)


def is_users_own(connection: socket.socket) -> bool:
    """Say whether the process at the other end runs as the same user."""
    size = struct.calcsize("3i")
    _, user, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    return bool(user == os.getuid())


def run_script(request: dict[str, Any], streams: list[int], learnt: int) -> int:
    """Run a job's script, in its own process, as the interpreter would; return the status to end with."""
    os.setsid()
    # With the server, should that be killed.
    ctypes.CDLL(None).prctl(_END_WITH_PARENT, signal.SIGKILL)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["directory"])
    os.umask(request["umask"])
    for name in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    script = request["script"]
    sys.argv, sys.path[0] = [script], os.path.dirname(script)
    known = set(sys.modules)
    status = status_of(lambda: runpy.run_path(script, run_name="__main__"))
    with os.fdopen(learnt, "w") as file:
        json.dump(installed(name for name in list(sys.modules) if name not in known), file)
    for output in (sys.stdout, sys.stderr):
        output.flush()
    return status


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


class Server:
    """The server of a run.

    Args:
        run: The process whose jobs are served.
        folder: The run's own folder, in which the socket is.
        likeness: What jobs must have in common with this process.

    Raises:
        OSError: The run has ended.
    """

    def __init__(self, run: int, folder: Path, likeness: str) -> None:
        self._likeness = likeness
        self._folder = folder
        self._events = selectors.DefaultSelector()
        self._jobs: list[Job] = []
        self._run = os.pidfd_open(run)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)

    def serve(self) -> None:
        """Serve until the run ends, or a library has started a thread."""
        # Under its name only once it can be connected to.
        new = self._folder / f"{SOCKET}.new"
        self._socket.bind(str(new))
        self._socket.listen()
        new.rename(self._folder / SOCKET)
        self._events.register(self._run, selectors.EVENT_READ, self._end)
        self._events.register(self._socket, selectors.EVENT_READ, self._accept)
        while single_threaded() or self._jobs:
            if not single_threaded():
                # Those that run are waited for; others start by themselves.
                (self._folder / SOCKET).unlink(missing_ok=True)
            for event, _ in self._events.select():
                event.data()
        self._end()

    def _end(self) -> None:
        for job in self._jobs:
            kill(job.process, signal.SIGKILL)
        shutil.rmtree(self._folder, ignore_errors=True)
        os._exit(0)

    def _accept(self) -> None:
        client, _ = self._socket.accept()
        if not is_users_own(client):
            client.close()
            return
        try:
            request, streams = receive(client)
        except (OSError, ValueError):
            client.close()
            return
        if request["likeness"] != self._likeness or not single_threaded():
            with suppress(OSError):
                client.sendall(b"\x00")
            client.close()
        else:
            self._start(client, request, streams)
        for stream in streams:
            os.close(stream)

    def _start(self, client: socket.socket, request: dict[str, Any], streams: list[int]) -> None:
        learnt = os.memfd_create("learnt")
        process = os.fork()
        if process == 0:
            status = 1
            try:
                self._events.close()
                for end in (self._socket, client, *(job.client for job in self._jobs)):
                    end.close()
                for descriptor in (self._run, *(d for job in self._jobs for d in (job.ended, job.learnt))):
                    os.close(descriptor)
                status = run_script(request, streams, learnt)
            finally:
                # Handlers that wait for an interpreter's end are the server's.
                os._exit(status)
        job = Job(process, os.pidfd_open(process), client, learnt)
        self._jobs.append(job)
        self._events.register(job.ended, selectors.EVENT_READ, lambda: self._finish(job))
        self._events.register(client, selectors.EVENT_READ, lambda: self._hand_on(job))
        # Of a client that is gone already, the end of its connection is the next event.
        with suppress(OSError):
            client.sendall(b"\x01")

    def _hand_on(self, job: Job) -> None:
        """Send a job the signals that its client got; kill it if the client is gone."""
        received = job.client.recv(64)
        if not received:
            self._events.unregister(job.client)
        for number in received or bytes([signal.SIGKILL]):
            kill(job.process, number)

    def _finish(self, job: Job) -> None:
        # Nothing that it started outlives it. Its number is its own until it is waited for.
        kill(job.process, signal.SIGKILL)
        _, status = os.waitpid(job.process, 0)
        # A client may be gone: then the job was killed for it.
        with suppress(OSError):
            job.client.sendall(os.waitstatus_to_exitcode(status).to_bytes(4, "big", signed=True))
        self._events.unregister(job.ended)
        if job.client in (key.fileobj for key in self._events.get_map().values()):
            self._events.unregister(job.client)
        job.client.close()
        os.close(job.ended)
        self._jobs.remove(job)
        with os.fdopen(job.learnt) as file:
            file.seek(0)
            names = file.read()
        if names:
            learn(json.loads(names))
            keep()


def kill(process: int, number: int) -> None:
    """Send a signal to a job and to what it started."""
    with suppress(ProcessLookupError):
        os.killpg(process, number)


def main() -> None:
    """Serve the run that the arguments name."""
    run, _, folder = sys.argv[1].partition(":")
    if not is_own(folder):
        return
    import_library()
    keep()
    try:
        server = Server(int(run), Path(folder), sys.argv[2])
    except ProcessLookupError:
        return
    server.serve()


if __name__ == "__main__":
    main()
