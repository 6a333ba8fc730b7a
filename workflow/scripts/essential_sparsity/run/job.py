"""What every script of a rule does around its own work: logging, errors, threads and the device."""

from __future__ import annotations

import logging
import os
import platform
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from essential_sparsity.errors import UserError
from essential_sparsity.progress import draw_bars_on
from essential_sparsity.run.exhaustion import explain
from essential_sparsity.run.leases import lease_gpus
from essential_sparsity.run.usage import write_cost


def run_job(main: Callable[[Any], None], snakemake: Any) -> None:
    """Run ``main(snakemake)`` with all output in the rule's log.

    Logging, warnings, standard output and tracebacks go to the first log file of the rule. A :class:`UserError` is
    printed as its message, without a traceback, to the log and to the terminal; the process then ends with status 1,
    and Snakemake removes the job's outputs. GPUs that the profile gives are leased first, until the process ends. Of a
    rule with an output ``cost``, what the job has spent is written there.
    """
    log_path = Path(snakemake.log[0])
    with _opened(log_path, snakemake) as log, _redirected_to(log) as terminal:
        draw_bars_on(terminal)
        logging.basicConfig(stream=log, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", force=True)
        logging.captureWarnings(True)
        try:
            python = platform.python_version()
            logging.info("%s on %s, Python %s%s", snakemake.rule, platform.node(), python, _allocation())
            _work(main, snakemake)
        except UserError as error:
            logging.error("%s", error)
            _say(snakemake.rule, error, log_path, terminal)
            sys.exit(1)
        except Exception as error:
            logging.error("%s", traceback.format_exc())
            lacking = _explained(error, snakemake)
            if lacking:
                logging.error("%s", lacking)
                _say(snakemake.rule, lacking, log_path, terminal)
                sys.exit(1)
            print(
                f"\nUnexpected error in {snakemake.rule}; the traceback is in {log_path}\n", file=terminal, flush=True
            )
            sys.exit(1)
        finally:
            draw_bars_on(None)
            logging.captureWarnings(False)
            logging.getLogger().handlers.clear()


def _allocation() -> str:
    """Return what Slurm calls this job and which GPUs it gave it; nothing elsewhere."""
    number = os.environ.get("SLURM_JOB_ID")
    return f", Slurm job {number}, GPUs {os.environ.get('CUDA_VISIBLE_DEVICES') or 'none'}" if number else ""


@contextmanager
def _opened(path: Path, snakemake: Any) -> Iterator[TextIO]:
    """Begin the log anew."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        log = open(path, "w", encoding="utf-8", buffering=1)  # noqa: SIM115
    except OSError as error:
        lacking = _explained(error, snakemake)
        if lacking is None:
            raise
        _say(snakemake.rule, lacking, path, sys.stderr)
        sys.exit(1)
    try:
        yield log
    finally:
        # The last lines find no room on a full disk, of which the terminal was told.
        with suppress(OSError):
            log.close()


def _explained(error: Exception, snakemake: Any) -> UserError | None:
    written = Path(snakemake.output[0] if snakemake.output else snakemake.log[0])
    # The folder of all results, or the file's own.
    results = next((folder for folder in reversed(written.parents) if folder.name == "results"), written.parent)
    return explain(error, results, getattr(snakemake, "resources", {}))


def _say(rule: str, error: UserError, log: Path, terminal: TextIO) -> None:
    print(f"\nError in {rule}: {error}\n(log: {log})\n", file=terminal, flush=True)


def _work(main: Callable[[Any], None], snakemake: Any) -> None:
    lease_gpus(snakemake.resources, snakemake.rule)
    main(snakemake)
    if cost := snakemake.output.get("cost"):
        write_cost(Path(cost), snakemake.rule, snakemake.resources)


@contextmanager
def _redirected_to(log: TextIO) -> Iterator[TextIO]:
    """Send this process's standard output and error to ``log``; yield the terminal that standard error was before.

    The file descriptors are redirected, not only ``sys.stderr``: libraries keep the stream that they found at import,
    and compiled code writes past Python.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    saved = [os.dup(1), os.dup(2)]
    os.dup2(log.fileno(), 1)
    os.dup2(log.fileno(), 2)
    try:
        with os.fdopen(os.dup(saved[1]), "w", encoding="utf-8") as terminal:
            yield terminal
    finally:
        for stream in (sys.stdout, sys.stderr):
            # On a full disk the job has said so, or will say so when the log is closed.
            with suppress(OSError):
                stream.flush()
        for descriptor, original in enumerate(saved, start=1):
            os.dup2(original, descriptor)
            os.close(original)
