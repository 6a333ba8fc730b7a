"""Jobs in forks of one process: they end as they do in an interpreter, whatever happens to them or to it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tiny import ROOT
from waiting import is_running, until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="jobs are forked on Linux alone")
sys.path.append(str(ROOT / "workflow"))

from warm_process import WarmProcess  # noqa: E402

Run = Callable[..., int | None]


@pytest.fixture
def warm() -> Iterator[WarmProcess]:
    """A process that has imported next to nothing."""
    found = WarmProcess(("numpy",))
    yield found
    if found._child and found._child.stdin:
        found._child.stdin.close()
        found._child.wait()


@pytest.fixture
def run(warm: WarmProcess, tmp_path: Path) -> Run:
    """Run a script of this text."""

    def run(text: str, threads: int = 1, **environment: str) -> int | None:
        script = tmp_path / f"{abs(hash(text))}.py"
        script.write_text(textwrap.dedent(text))
        return warm.run(str(script), threads, environment)

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
    run: Run, capfd: pytest.CaptureFixture[str], script: str, status: int, output: str, errors: str
) -> None:
    assert run(script) == status
    said = capfd.readouterr()
    plain = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert plain.returncode == status
    assert output in said.out and output in plain.stdout
    assert errors in said.err and errors in plain.stderr


@pytest.mark.parametrize("threads", [1, 2])
def test_a_job_has_its_own_threads_and_environment_and_shares_what_is_imported(
    run: Run, capfd: pytest.CaptureFixture[str], threads: int
) -> None:
    script = """
        import os, sys, threadpoolctl
        assert "numpy" in sys.modules and __name__ == "__main__" and os.environ["GIVEN"] == "this"
        assert sys.argv == [__file__] and sys.path[0] == os.path.dirname(__file__)
        print(sorted(library["num_threads"] for library in threadpoolctl.threadpool_info()))
    """
    assert run(script, threads, GIVEN="this") == 0
    assert capfd.readouterr().out.strip() == str([min(threads, os.cpu_count() or 1)])
    assert run("import os; assert 'GIVEN' not in os.environ") == 0, "nothing of a job reaches the next"


def test_jobs_run_beside_each_other_and_each_has_its_own_status(run: Run) -> None:
    with ThreadPoolExecutor(12) as pool:
        statuses = pool.map(lambda n: run(f"import sys, time; time.sleep({(12 - n) / 50}); sys.exit({n})"), range(12))
    assert list(statuses) == list(range(12))


def test_where_a_library_starts_a_thread_jobs_start_by_themselves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "threaded.py").write_text(
        "import threading, time\nthreading.Thread(target=time.sleep, args=[9]).start()"
    )
    (tmp_path / "script.py").write_text("")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert WarmProcess(("threaded",)).run(str(tmp_path / "script.py"), 1, {}) is None


def test_if_it_is_killed_its_job_fails_and_later_ones_start_by_themselves(run: Run) -> None:
    assert run("import os, signal, time; os.kill(os.getppid(), signal.SIGKILL); time.sleep(60)") == -signal.SIGKILL
    assert run("") is None


def test_a_job_can_be_told_to_end_and_the_process_serves_on(run: Run, tmp_path: Path) -> None:
    script = f"""
        import os, signal, sys, time
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(5))
        open({str(tmp_path / "pid")!r}, "w").write(f"{{os.getpid()}} {{os.getppid()}}\\n")
        time.sleep(60)
    """

    def terminate() -> None:
        until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().endswith("\n"))
        # As a scheduler does, which ends a whole group.
        for process in (tmp_path / "pid").read_text().split():
            os.kill(int(process), signal.SIGTERM)

    with ThreadPoolExecutor(1) as pool:
        told = pool.submit(terminate)
        assert run(script) == 5
        told.result()
    assert run("") == 0


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_jobs_end_with_the_main_process(tmp_path: Path, number: int) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(f'{{os.getpid()}}\\n'); time.sleep(600)"
    )
    main = f"""
        import sys; sys.path.append({str(ROOT / "workflow")!r})
        from warm_process import WarmProcess
        WarmProcess(("json",)).run({str(script)!r}, 1, {{}})
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(main)])
    until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().endswith("\n"))
    job = int((tmp_path / "pid").read_text())
    assert is_running(job)
    process.send_signal(number)
    process.wait()
    until(lambda: not is_running(job))
