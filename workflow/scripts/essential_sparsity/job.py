"""What every script of a rule does around its own work: logging, errors, threads and the device."""

from __future__ import annotations

import gc
import logging
import os
import platform
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from essential_sparsity.errors import UserError
from essential_sparsity.progress import draw_bars_on
from essential_sparsity.usage import write_cost


def run_job(main: Callable[[Any], None], snakemake: Any) -> None:
    """Run ``main(snakemake)`` with all output in the rule's log.

    Logging, warnings, standard output and tracebacks go to the first log file of the rule. A :class:`UserError` is
    printed as its message, without a traceback, to the log and to the terminal; the process then ends with status 1,
    and Snakemake removes the job's outputs. Of a rule with an output ``cost``, what the job has spent is written there.
    """
    # What was imported stays: it is not looked through again, nor when the process ends.
    gc.freeze()
    gc.enable()
    log_path = Path(snakemake.log[0])
    log_path.parent.mkdir(parents=True, exist_ok=True)
    with open(log_path, "w", encoding="utf-8", buffering=1) as log, _redirected_to(log) as terminal:
        draw_bars_on(terminal)
        logging.basicConfig(stream=log, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", force=True)
        logging.captureWarnings(True)
        logging.info("%s on %s, Python %s%s", snakemake.rule, platform.node(), platform.python_version(), _allocation())
        try:
            main(snakemake)
            if cost := snakemake.output.get("cost"):
                write_cost(Path(cost), snakemake.resources)
        except UserError as error:
            logging.error("%s", error)
            print(f"\nError in {snakemake.rule}: {error}\n(log: {log_path})\n", file=terminal, flush=True)
            sys.exit(1)
        except Exception:
            logging.error("%s", traceback.format_exc())
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
        sys.stdout.flush()
        sys.stderr.flush()
        for descriptor, original in enumerate(saved, start=1):
            os.dup2(original, descriptor)
            os.close(original)
