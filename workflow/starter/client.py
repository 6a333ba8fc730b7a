"""Run a job's script in a process that has its modules already; Snakemake starts every script through this file.

It asks the server of the run (``server.py``) for such a process, and waits for its end in the job's place: signals are
handed on, and the job's status becomes its own. Until there is a server, for a job that it cannot serve, and for
whatever is not the script of a job, it becomes the interpreter that would have run without it.

It runs without ``site`` and imports what it needs when it needs it: it is the first thing that every job waits for.
"""

from __future__ import annotations

import os
import sys

# Set by the Snakefile: the process whose jobs are served, and a folder of its own.
RUN = "ESSENTIAL_SPARSITY_RUN"
SOCKET, LOG = "socket", "log"
# A server costs about as much as starting two jobs: a run of fewer has none.
FIRST_JOBS = 3
# What libraries read while they are loaded.
LOADED_WITH = (
    "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "LD_PRELOAD", "LD_LIBRARY_PATH", "PYTHONPATH",
    "PYTHONHASHSEED",
)  # fmt: skip
SCRIPTS = os.sep + os.path.join(".snakemake", "scripts") + os.sep
HANDED_ON = ("SIGHUP", "SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2")


def is_own(folder: str) -> bool:
    """Say whether a folder is the user's alone: what cleans up /tmp may have removed the run's, and anybody made it."""
    try:
        found = os.lstat(folder)
    except OSError:
        return False
    # A directory, no link.
    return found.st_mode & 0o170077 == 0o040000 and found.st_uid == os.getuid()


def likeness() -> str:
    """Return what a server must have in common with the jobs that it serves."""
    return repr([sys.version, sys.executable, *(os.environ.get(name) for name in LOADED_WITH)])


def become_interpreter(arguments: list[str]) -> None:
    """Go on as the interpreter with these arguments."""
    os.execv(sys.executable, [sys.executable, *arguments])


def is_one_of_several(folder: str) -> bool:
    """Count this job, and say whether it is the one with which a server pays."""
    for number in range(1, FIRST_JOBS + 1):
        try:
            # Of jobs that start at once, one alone can make it.
            os.mkdir(os.path.join(folder, str(number)))
        except FileExistsError:
            continue
        except OSError:
            return False
        return number == FIRST_JOBS
    return False


def start_server(run: str, folder: str) -> None:
    """Start the server: a process of the run, not of this job, whose end it outlives."""
    if os.fork():
        return
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDONLY)
    log = os.open(os.path.join(folder, LOG), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for number, target in enumerate((nothing, log, log)):
        os.dup2(target, number)
    # A thread of pyarrow's allocator would be there in the server, and not in the processes that it forks.
    environment = {**os.environ, "JE_ARROW_MALLOC_CONF": "background_thread:false"}
    server = os.path.join(os.path.dirname(os.path.abspath(__file__)), "server.py")
    os.execve(sys.executable, [sys.executable, server, run, likeness()], environment)


def run_by_server(folder: str, script: str) -> int | None:
    """Return the status of a script that the server ran, minus a signal's number if one ended it.

    None if there is no server, or it serves other jobs.
    """
    import array
    import json
    import signal
    import socket

    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # A socket's path may have no more than a hundred characters.
        connection.connect(os.path.join(folder, SOCKET))
    except OSError:
        return None
    umask = os.umask(0)
    os.umask(umask)
    request = {
        "likeness": likeness(), "script": script, "directory": os.getcwd(), "environment": dict(os.environ),
        "umask": umask,
    }  # fmt: skip
    message = json.dumps(request).encode()
    streams = array.array("i", [0, 1, 2])
    try:
        connection.sendmsg([len(message).to_bytes(4, "big")], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, streams)])
        connection.sendall(message)
        # One byte: whether the job is taken.
        if connection.recv(1) != b"\x01":
            return None
    except OSError:
        return None

    def hand_on(received: int, _frame: object) -> None:
        connection.sendall(bytes([received]))

    for name in HANDED_ON:
        signal.signal(getattr(signal, name), hand_on)
    answer = connection.recv(4, socket.MSG_WAITALL)
    if len(answer) < 4:
        os.write(2, b"The server that this job ran in has ended, and the job with it; run the workflow again.\n")
        return 1
    return int.from_bytes(answer, "big", signed=True)


def end_with(status: int) -> None:
    """End as the job did; where a signal ended it, by that signal."""
    if status < 0:
        import resource
        import signal

        # The job has left its own core file, if it was to leave one.
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if -status not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)


def main(arguments: list[str]) -> None:
    """Run what the arguments of the interpreter name."""
    run, script = os.environ.get(RUN), os.path.abspath(arguments[0]) if arguments else ""
    if run and len(arguments) == 1 and SCRIPTS in script:
        folder = run.partition(":")[2]
        if not is_own(folder):
            become_interpreter(arguments)
        status = run_by_server(folder, script)
        if status is not None:
            end_with(status)
        if is_one_of_several(folder):
            start_server(run, folder)
    become_interpreter(arguments)


if __name__ == "__main__":
    main(sys.argv[1:])
