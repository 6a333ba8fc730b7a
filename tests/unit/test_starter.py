"""Jobs whose scripts run in processes that a server forks: like those of an interpreter, whatever happens to them."""

from __future__ import annotations

import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tiny import ROOT
from waiting import is_running, until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="jobs are served on Linux alone")

STARTER = ROOT / "workflow" / "starter"
# The server as it is, but for the seconds of its imports.
SERVER = (
    f"import sys; sys.path[0] = {str(STARTER)!r}; import server; server.import_library = lambda: None; server.main()"
)


class Run:
    """A run with a folder of its own, in whose jobs' folder scripts can be written and started."""

    def __init__(self, folder: Path) -> None:
        self.scripts = folder / "a work folder" / ".snakemake" / "scripts"
        self.scripts.mkdir(parents=True)
        self.folder = folder / "run"
        self.folder.mkdir(mode=0o700)
        # Stands for Snakemake's main process.
        self.main = subprocess.Popen(["sleep", "600"])
        self.server: subprocess.Popen[str] | None = None

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "ESSENTIAL_SPARSITY_RUN": f"{self.main.pid}:{self.folder}", "OMP_NUM_THREADS": "1"}

    def likeness(self) -> str:
        command = f"import sys; sys.path[0] = {str(STARTER)!r}; import client; print(client.likeness())"
        return subprocess.run(
            [sys.executable, "-c", command], env=self.environment, capture_output=True, text=True, check=True
        ).stdout.strip()

    def serve(self) -> None:
        command = [sys.executable, "-c", SERVER, f"{self.main.pid}:{self.folder}", self.likeness()]
        self.server = subprocess.Popen(command, env=self.environment, text=True)
        until(lambda: (self.folder / "socket").exists())

    def start(self, text: str, **environment: str) -> subprocess.Popen[str]:
        script = self.scripts / f"{time.monotonic_ns()}.py"
        script.write_text(text)
        return subprocess.Popen(
            [sys.executable, "-I", "-S", str(STARTER / "client.py"), str(script)], cwd=self.scripts.parents[1],
            env={**self.environment, **environment}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def run(self, text: str, **environment: str) -> tuple[int, str, str]:
        job = self.start(text, **environment)
        output, errors = job.communicate(timeout=60)
        return job.returncode, output, errors

    def is_served(self, **environment: str) -> bool:
        assert self.server is not None
        return self.run("import os; print(os.getppid())", **environment)[1].strip() == str(self.server.pid)

    def end(self) -> None:
        for process in filter(None, (self.main, self.server)):
            process.kill()
            process.wait()


@pytest.fixture
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """A run without a server. A socket's path has to be short."""
    found = Run(tmp_path_factory.mktemp("r"))
    yield found
    found.end()


@pytest.fixture
def served(run: Run) -> Run:
    """A run with a server."""
    run.serve()
    return run


@pytest.mark.parametrize(
    ("script", "status", "output", "errors"),
    [
        ("print('done')", 0, "done", ""),
        ("raise SystemExit", 0, "", ""),
        ("import sys; print('half'); sys.exit(3)", 3, "half", ""),
        ("import sys; sys.exit('no data')", 1, "", "no data"),
        ("1 / 0", 1, "", "ZeroDivisionError"),
        ("import os; os._exit(7)", 7, "", ""),
        ("import os; os.kill(os.getpid(), 9)", -9, "", ""),
        ("import ctypes; ctypes.string_at(0)", -11, "", ""),
    ],
)
def test_a_job_ends_as_it_does_in_an_interpreter(
    served: Run, script: str, status: int, output: str, errors: str
) -> None:
    assert served.is_served()
    found = served.run(script)
    plain = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert found[0] == status == plain.returncode
    assert output in found[1] and output in plain.stdout
    assert errors in found[2] and errors in plain.stderr


def test_a_job_has_the_surroundings_of_its_client(served: Run) -> None:
    script = (
        "import os, sys, pathlib; print(os.getcwd()); print(os.environ['MINE']); print(sys.argv == [__file__]);"
        "print(__name__); print(sys.path[0] == os.path.dirname(__file__));"
        "pathlib.Path('made').write_text(''); print(sys.stdin.read())"
    )
    status, output, errors = served.run(script, MINE="a value")
    assert (status, errors) == (0, "")
    assert output.splitlines() == [str(served.scripts.parents[1]), "a value", "True", "__main__", "True", ""]
    mask = os.umask(0)
    os.umask(mask)
    assert (served.scripts.parents[1] / "made").stat().st_mode & 0o777 == 0o666 & ~mask


def test_nothing_that_a_job_changes_reaches_another(served: Run) -> None:
    change = "import os, json, sys; os.environ['LEFT'] = '1'; json.left = 1; sys.path.append('left'); os.chdir('/')"
    assert served.run(change)[0] == 0
    look = "import os, json, sys; print('LEFT' in os.environ, hasattr(json, 'left'), 'left' in sys.path, os.getcwd())"
    assert served.run(look)[1].split(maxsplit=3) == ["False", "False", "False", f"{served.scripts.parents[1]}\n"]


def test_what_a_job_imported_is_there_for_the_next_but_no_code_of_its_own(served: Run, tmp_path: Path) -> None:
    (tmp_path / "came_with_a_model.py").write_text("")
    own = f"import sys; sys.path.append({str(tmp_path)!r}); import colorsys, came_with_a_model"
    look = "import sys; print('colorsys' in sys.modules, 'came_with_a_model' in sys.modules)"
    assert served.run(look)[1].split() == ["False", "False"]
    assert served.run(own)[0] == 0
    assert served.run(look)[1].split() == ["True", "False"]


def test_a_signal_reaches_the_job_and_it_may_take_its_time(served: Run) -> None:
    begun = served.scripts / "begun"
    patient = (
        "import pathlib, signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (time.sleep(0.2), print('saved', flush=True), sys.exit(4)))\n"
        f"pathlib.Path({str(begun)!r}).write_text('')\n"
        "time.sleep(60)\n"
    )
    job = served.start(patient)
    until(begun.exists)
    job.send_signal(signal.SIGTERM)
    assert job.communicate(timeout=60)[0] == "saved\n"
    assert job.returncode == 4
    begun.unlink()
    plain = served.start(f"import pathlib, time; pathlib.Path({str(begun)!r}).write_text(''); time.sleep(60)")
    until(begun.exists)
    plain.send_signal(signal.SIGTERM)
    plain.communicate(timeout=60)
    assert plain.returncode == -signal.SIGTERM


@pytest.mark.parametrize("killed", ["client", "main", "server"])
def test_no_job_outlives_its_client_its_run_or_the_server(served: Run, killed: str) -> None:
    assert served.server is not None
    number = served.scripts / "number"
    # It has a process of its own, too, as trainings on several GPUs have.
    script = (
        "import os, pathlib, subprocess, time\n"
        # Without the pipes: `communicate` waits until the last process has let go of them.
        "other = subprocess.Popen(['sleep', '60'], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)\n"
        f"part = pathlib.Path({str(number)!r} + '.part'); part.write_text(f'{{os.getpid()}} {{other.pid}}')\n"
        f"part.rename({str(number)!r}); time.sleep(60)"
    )
    job = served.start(script)
    until(number.exists)
    processes = [int(text) for text in number.read_text().split()]
    assert all(map(is_running, processes))
    {"client": job, "main": served.main, "server": served.server}[killed].kill()
    until(lambda: not is_running(processes[0]))
    errors = job.communicate(timeout=60)[1]
    assert job.returncode != 0
    if killed == "server":
        assert "run the workflow again" in errors
    else:
        until(lambda: not is_running(processes[1]))
    if killed == "main":
        served.main.wait()
        assert served.server.wait(timeout=60) == 0
        assert not served.folder.exists()
    if killed == "client":
        assert served.is_served()


def test_jobs_that_libraries_were_not_loaded_for_start_by_themselves(served: Run) -> None:
    assert served.is_served()
    assert not served.is_served(OMP_NUM_THREADS="4")
    assert served.run("import os; print(os.environ['OMP_NUM_THREADS'])", OMP_NUM_THREADS="4")[:2] == (0, "4\n")


def test_the_third_job_starts_a_server_and_waits_for_none(run: Run) -> None:
    for number in (1, 2):
        assert run.run("print('alone')")[:2] == (0, "alone\n")
        assert (run.folder / str(number)).exists() and not (run.folder / "3").exists()
    assert not (run.folder / "log").exists()
    assert run.run("print('alone')")[:2] == (0, "alone\n")
    # The real one, with the library; it ends with the run.
    until((run.folder / "socket").exists)
    assert run.run("import sys; print('torch' in sys.modules, len(__import__('os').listdir('/proc/self/task')))")[
        1
    ] == ("True 1\n")
    run.main.kill()
    run.main.wait()
    until(lambda: not run.folder.exists())


def test_a_server_with_a_second_thread_takes_no_more_jobs(run: Run) -> None:
    learn = (
        "import threading, time; server.learn = lambda names: threading.Thread(target=time.sleep, args=[60]).start()"
    )
    command = SERVER.replace("server.main()", f"{learn}; server.main()")
    run.server = subprocess.Popen(
        [sys.executable, "-c", command, f"{run.main.pid}:{run.folder}", run.likeness()], env=run.environment, text=True
    )
    until((run.folder / "socket").exists)
    assert run.is_served()
    assert run.server.wait(timeout=60) == 0
    assert not run.folder.exists()
    assert run.run("print('alone')")[:2] == (0, "alone\n")


def test_whatever_is_no_script_of_a_job_is_the_interpreters(served: Run) -> None:
    command = [
        sys.executable,
        "-I",
        "-S",
        str(STARTER / "client.py"),
        "-c",
        "import os, sys; print(os.getppid(), sys.flags.no_site)",
    ]
    found = subprocess.run(command, env=served.environment, capture_output=True, text=True, check=True)
    assert found.stdout == f"{os.getpid()} 0\n"


def test_a_folder_that_is_not_the_users_alone_is_not_used(served: Run) -> None:
    # What cleans up /tmp may have removed it, and somebody else made it: a server there would be given the environment.
    assert served.is_served()
    served.folder.chmod(0o755)
    assert served.run("import os; print(os.getppid())")[1].strip() == str(os.getpid())
    served.folder.chmod(0o700)
    assert served.is_served()


def test_the_server_reads_nothing_but_small_json(served: Run) -> None:
    marker = served.scripts / "marker"
    trap = pickle.dumps(type("Trap", (), {"__reduce__": lambda _: (open, (str(marker), "w"))})())
    for size, message in ((len(trap), trap), (2**32 - 1, b"{}"), (2, b"{"), (2, b"{}"), (2, b"[]")):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.connect(str(served.folder / "socket"))
            connection.sendall(size.to_bytes(4, "big") + message)
            connection.shutdown(socket.SHUT_WR)
            # A connection that is closed with something unread is reset.
            with suppress(ConnectionResetError):
                assert connection.recv(1) == b""
    assert not marker.exists()
    assert served.is_served()
