"""One evaluation as a row: every axis, both sparsities, the metric, and where and how it was computed."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from essential_sparsity.checkpoints.files import PROVENANCE, checkpoint_folder
from essential_sparsity.checkpoints.manifest import read_manifest
from essential_sparsity.checkpoints.steps import step_of
from essential_sparsity.data.tasks import Task
from essential_sparsity.errors import UserError
from essential_sparsity.evaluation.outcomes import Outcome
from essential_sparsity.evaluation.tables import EVALUATIONS, EXAMPLES
from essential_sparsity.files import canonical, read_json
from essential_sparsity.metrics.registry import DENSE_AT_CHANCE, at_chance, metric_of
from essential_sparsity.pruning.masks import MaskHeader, Pruning, Slots, no_pruning, read_header, read_pruning
from essential_sparsity.run.commit import workflow_commit
from essential_sparsity.run.devices import device_name, peak_memory_mb
from essential_sparsity.tables import write_table

Protocol = Callable[[Path, Pruning, str], tuple[Outcome, float]]

# The columns of a row that say how its weights were chosen, besides the options; null for the dense model.
SLOTS = ("score", "allocation", "scope", "pattern", "refinement", "update", "compat", "calibration", "propagate")


# A file of one evaluation does not name a study: two studies that ask for the same evaluation share it.
EVALUATION = EVALUATIONS.without("study")


def evaluation_row(
    axes: Mapping[str, str], method: Slots | None, task: Task, outcome: Outcome,
    realised: float, provenance: Mapping[str, Any], run: Mapping[str, Any], target: float, notes: Sequence[str],
) -> pd.DataFrame:  # fmt: skip
    """Return the single row of an evaluation.

    Args:
        axes: ``model, checkpoint, method, sparsity, task, seed`` as they stand in the path.
        method: The registry's entry; None for the dense model.
        task: The registry's entry.
        outcome: What the protocol returned.
        realised: Zeros counted in the model that was evaluated, as a fraction.
        provenance: The checkpoint's ``provenance.json``.
        run: ``seconds, peak_memory_mb, device, workflow_commit, torch_version, transformers_version``.
        target: The sparsity asked, exactly; of N:M the path holds three decimals of it.
        notes: What the mask says of how it was made.
    """
    # Nothing is calibrated: null, not an empty name.
    slots = {key: method[key] or None if method else None for key in SLOTS}
    for key in ("options", "rounds"):
        slots[key] = canonical(method[key]) if method and method.get(key) else None
    ignorant = method is None and at_chance(outcome.value, outcome.chance, outcome.n, task.metric)
    row = {
        **axes, **slots, **run, "source": provenance["source"], "revision": provenance["revision"],
        "step": step_of(axes["checkpoint"]), "sparsity": target, "realised_sparsity": realised,
        "protocol": task.protocol, "metric": task.metric, "value": outcome.value,
        "higher_is_better": metric_of(task.metric).higher_is_better, "chance": outcome.chance,
        "other_metrics": canonical(dict(outcome.others)) if outcome.others else None,
        "flags": "; ".join([*([DENSE_AT_CHANCE] if ignorant else []), *notes]),
        "notes": "; ".join(outcome.notes),
        "n": outcome.n, "seed": int(axes["seed"]),
    }  # fmt: skip
    return pd.DataFrame([row])


def run_evaluation(
    axes: Mapping[str, str], checkpoint: Path, manifest: Path, mask: Path | None,
    method: Slots | None, task: Task, protocol: Protocol, device: torch.device,
) -> tuple[pd.DataFrame, Outcome]:  # fmt: skip
    """Evaluate one model by a protocol.

    Args:
        axes: ``model, checkpoint, method, sparsity, task, seed`` as they stand in the path.
        checkpoint: The checkpoint's folder.
        manifest: The list of the model's matrices.
        mask: The mask's file; None for the dense model.
        method: The registry's entry; None for the dense model.
        task: The registry's entry.
        protocol: Takes the checkpoint, what pruning decided and a text for messages, and returns the outcome and the
            sparsity counted in the model that it evaluated.
        device: Where it computes.

    Returns:
        The row of the evaluation, and the outcome with its examples.
    """
    where = ", ".join(f"{key} {value}" for key, value in axes.items())
    began = time.monotonic()
    matrices = read_manifest(manifest)
    target, notes = 0.0, []
    if mask is None:
        pruning = no_pruning(matrices)
    else:
        header = read_header(mask)
        check_mask_is_of(header, axes, method, mask)
        pruning, target, notes = read_pruning(mask, matrices), header.target, header.notes
    outcome, realised = protocol(checkpoint, pruning, where)
    run = {
        "seconds": time.monotonic() - began,
        "peak_memory_mb": peak_memory_mb(device),
        "device": device_name(device),
        "workflow_commit": workflow_commit(Path(__file__).parent),
        "torch_version": torch.__version__,
        "transformers_version": version("transformers"),
    }
    provenance = read_json(checkpoint / PROVENANCE)
    return evaluation_row(axes, method, task, outcome, realised, provenance, run, target, notes), outcome


def check_mask_is_of(header: MaskHeader, axes: Mapping[str, str], method: Slots | None, path: Path) -> None:
    """Check that a mask is the one that its path says.

    Raises:
        UserError: Its header names another model, checkpoint, method or sparsity.
    """
    said = (header.model, header.checkpoint, header.method, f"{header.target:.3f}")
    asked = (axes["model"], axes["checkpoint"], dict(method or {}), axes["sparsity"])
    if said != asked:
        raise UserError(
            where=str(path),
            found=f"a mask of {said}",
            expected=f"one of {asked}",
            mend="delete this file and run again: it will be made afresh",
        )


def write_evaluation(row: pd.DataFrame, outcome: Outcome, row_path: Path, examples_path: Path) -> None:
    """Write an evaluation's row and its examples, the row last."""
    write_table(outcome.examples, EXAMPLES, examples_path)
    write_table(row, EVALUATION, row_path)


def evaluate_to_files(
    axes: Mapping[str, str], inputs: Mapping[str, str], outputs: Mapping[str, str], method: Slots | None,
    task: Task, protocol: Protocol, device: torch.device,
) -> None:  # fmt: skip
    """Evaluate what a job's input files hold, and write its output files.

    Args:
        axes: As in :func:`run_evaluation`, and so are the arguments after the files.
        inputs: Paths: those of the checkpoint, ``manifest`` and, unless the model is dense, ``mask``.
        outputs: Paths: ``row`` and ``examples``.
        method: The registry's entry; None for the dense model.
        task: The registry's entry.
        protocol: What evaluates.
        device: Where it computes.
    """
    mask = Path(inputs["mask"]) if "mask" in inputs else None
    with checkpoint_folder(inputs) as checkpoint:
        row, outcome = run_evaluation(axes, checkpoint, Path(inputs["manifest"]), mask, method, task, protocol, device)
    write_evaluation(row, outcome, Path(outputs["row"]), Path(outputs["examples"]))
