"""A job's output is in its log; a user's mistake is a message, not a traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

LIBRARY = str(Path(__file__).resolve().parents[3] / "workflow" / "scripts")

PRELUDE = """
    import json, logging, os, sys, types, warnings
    from essential_sparsity.errors import UserError
    from essential_sparsity.run.job import run_job
    from essential_sparsity.progress import progress
    resources = json.loads(os.environ.get("RESOURCES", "{}"))
    snakemake = types.SimpleNamespace(log=[sys.argv[1]], rule="prune_weights", output={}, resources=resources)
"""


def run(folder: Path, body: str, after: str = "", *arguments: str) -> tuple[subprocess.CompletedProcess[str], str]:
    """Run a job whose ``main`` has this body, in a process of its own; return it and its log."""
    log = folder / "logs" / "deep" / "job.log"
    code = (
        textwrap.dedent(PRELUDE)
        + "def main(snakemake):\n"
        + textwrap.indent(textwrap.dedent(body), "    ")
        + "\nrun_job(main, snakemake)\n"
        + textwrap.dedent(after)
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(log), *arguments], capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": LIBRARY},
    )  # fmt: skip
    return done, log.read_text(encoding="utf-8")


def test_a_mistake_of_the_user_is_a_message_without_a_traceback(tmp_path: Path) -> None:
    done, log = run(tmp_path, 'raise UserError("config/a.yaml, key b", "1", "2", "write 2")')
    message = "config/a.yaml, key b: found 1; expected 2. To mend: write 2."
    assert done.returncode == 1
    for text in (done.stderr, log):
        assert message in text
        assert "Traceback" not in text
    assert "prune_weights" in done.stderr
    assert "job.log" in done.stderr
    assert done.stdout == ""


def test_any_other_error_is_a_traceback_in_the_log_alone(tmp_path: Path) -> None:
    done, log = run(tmp_path, "raise KeyError('the cause')")
    assert done.returncode == 1
    assert "Traceback (most recent call last)" in log
    assert "the cause" in log
    assert "Traceback" not in done.stderr
    assert "Unexpected error in prune_weights" in done.stderr
    assert "job.log" in done.stderr, "the terminal says where the traceback is"


def test_output_goes_to_the_log_whoever_writes_it(tmp_path: Path) -> None:
    body = """
        print("from print")
        print("from stderr", file=sys.stderr)
        logging.info("from logging")
        warnings.warn("from a warning")
        os.write(1, b"from file descriptor 1\\n")
        os.write(2, b"from file descriptor 2\\n")
        os.system("echo from a child")
        for _ in progress(range(3), "counting", total=3, unit="things"):
            pass
    """
    done, log = run(tmp_path, body)
    assert done.returncode == 0
    for source in ("print", "stderr", "logging", "a warning", "file descriptor 1", "file descriptor 2", "a child"):
        assert f"from {source}" in log
    assert "counting: 3 of 3 things (100 %)" in log
    assert done.stdout == ""
    assert done.stderr == "", "no bar where nobody watches a terminal"


def test_the_terminal_is_given_back(tmp_path: Path) -> None:
    done, log = run(tmp_path, 'print("inside")', after='print("after")\nprint("after too", file=sys.stderr)\n')
    assert done.stdout == "after\n"
    assert done.stderr == "after too\n"
    assert "after" not in log


def test_the_log_says_what_ran_where(tmp_path: Path) -> None:
    _, log = run(tmp_path, "pass")
    assert "prune_weights on" in log
    assert f"Python {sys.version.split()[0]}" in log


def test_a_second_run_begins_a_new_log(tmp_path: Path) -> None:
    run(tmp_path, 'print("first")')
    _, log = run(tmp_path, 'print("second")')
    assert "second" in log
    assert "first" not in log


@pytest.mark.parametrize(
    ("asks", "says"),
    [
        ("bytearray(1 << 34)", "MemoryError"),
        ("import numpy; numpy.ones(1 << 31)", "Unable to allocate"),
        ("import pyarrow; pyarrow.allocate_buffer(1 << 34)", "malloc of size 17179869184 failed"),
        ('raise RuntimeError("DefaultCPUAllocator: can\'t allocate memory: you tried to allocate 9 bytes")', "9 bytes"),
    ],
)
def test_a_lack_of_memory_is_a_message_with_what_was_asked_and_given(tmp_path: Path, asks: str, says: str) -> None:
    body = f"""
        import resource
        snakemake.resources = dict(mem_mb=2000)
        resource.setrlimit(resource.RLIMIT_AS, (8_000_000_000, resource.RLIM_INFINITY))
        {asks}
    """
    done, log = run(tmp_path, body)
    assert done.returncode == 1
    assert "Traceback" in log and "Traceback" not in done.stderr
    for text in (says, "mem_mb=2000", "8000 MB of address space", "retries"):
        assert text in done.stderr


@pytest.mark.parametrize("limit", ["size", "full", "reading", "read-only"])
def test_a_lack_of_room_or_permission_is_a_message(tmp_path: Path, limit: str) -> None:
    body = {
        "size": """
            import resource
            resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY))
            open(sys.argv[1] + ".large", "wb").write(bytes(20_000))
        """,
        "full": 'open("/dev/full", "wb", buffering=0).write(b"1")',
        "reading": 'raise PermissionError(13, "Permission denied", "data/a.csv")',
        "read-only": 'raise OSError(30, "Read-only file system", "results/masks/a")',
    }[limit]
    done, log = run(tmp_path, body)
    says = {
        "size": "no room for another file (File too large",
        "full": "no room",
        "reading": "data/a.csv: found no permission (Permission denied); expected permission to read what",
        "read-only": "results/masks/a: found no permission (Read-only file system)",
    }
    assert done.returncode == 1
    assert says[limit] in done.stderr
    assert "run again" in done.stderr
    assert "Traceback" in log and "Traceback" not in done.stderr


def test_a_job_has_the_gpus_that_it_was_given_until_its_process_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"GPU-test-job-{os.getpid()}"
    # No driver to ask.
    for variable, value in {"PATH": "/nowhere", "CUDA_VISIBLE_DEVICES": f"{name},GPU-other"}.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setenv("RESOURCES", json.dumps({"gpu": 1}))
    after = """
        from essential_sparsity.run import leases
        if not os.fork():
            print("free:", leases._take(sys.argv[2:], leases.Wanted(1, 100)), flush=True)
            os._exit(0)
        os.wait()
    """
    done, log = run(tmp_path, 'print("sees", os.environ["CUDA_VISIBLE_DEVICES"])', after, name)
    Path(f"/tmp/essential-sparsity-{name}.lock").unlink()
    assert done.returncode == 0, log
    assert f"sees {name}\n" in log
    assert done.stdout == "free: []\n"
