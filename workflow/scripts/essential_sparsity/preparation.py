"""What each protocol reads, prepared once: from a dataset's rows to columns of numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from essential_sparsity.text_inputs import (
    Columns,
    prepare_documents,
    prepare_masked,
    prepare_sequences,
    prepare_stream,
    targets,
)

Prepare = Callable[[pd.DataFrame, Mapping[str, Any], Path, str], tuple[Columns, dict[str, Any]]]


def prepare_images(
    rows: pd.DataFrame, task: Mapping[str, Any], checkpoint: Path, where: str
) -> tuple[Columns, dict[str, Any]]:
    """Decode images and bring them to the size that the model's processor asks for; bytes, not yet normalised.

    Args:
        rows: Columns ``id, split, image, label``.
        task: Nothing of it is asked.
        checkpoint: The folder with ``preprocessor_config.json``.
        where: What is prepared, for messages.

    Returns:
        Columns ``id, split, pixels`` (bytes of channels x height x width) and ``label``, and what ``about`` says of
        them: ``shape``, and ``pixels``, how bytes become what the model takes.

    Raises:
        UserError: An image that cannot be read, or a processor that cannot be used.
    """
    from essential_sparsity.images import load_processor, pixel_settings, prepare_pixels

    processor = load_processor(checkpoint, where)
    pixels = prepare_pixels(rows["image"].tolist(), processor, rows["id"].tolist(), where)
    size = int(np.prod(pixels.shape[1:]))
    flat = pa.Array.from_buffers(pa.binary(size), len(pixels), [None, pa.py_buffer(np.ascontiguousarray(pixels))])
    label, classes = targets(rows)
    columns: Columns = {
        "id": rows["id"].to_numpy(), "split": rows["split"].tolist(), "pixels": flat, "label": label,
    }  # fmt: skip
    about = {
        "shape": list(pixels.shape[1:]),
        "pixels": asdict(pixel_settings(processor, where)),
        "classes": classes,
    }
    return columns, about


# By what the study says of a task: its protocol, or the kind of its rows, and the metric where that makes the difference.
PREPARE: dict[str, Prepare] = {
    "classes": prepare_sequences,
    "scores": prepare_sequences,
    "images": prepare_images,
    "stream": prepare_stream,
    "documents": prepare_documents,
    "masked": prepare_masked,
}


def prepare_inputs(
    rows: pd.DataFrame, task: Mapping[str, Any], checkpoint: Path, where: str
) -> tuple[Columns, dict[str, Any]]:
    """Prepare the inputs of a task for one model.

    Args:
        rows: The dataset's rows.
        task: What the preparation depends on; ``kind`` names an entry of :data:`PREPARE`.
        checkpoint: The folder of a checkpoint of the model, with tokenizer or processor.
        where: What is prepared, for messages.

    Returns:
        Columns for :func:`prepared.write_prepared`, and what holds for all rows, with the ``kind``.
    """
    columns, about = PREPARE[task["kind"]](rows, task, checkpoint, where)
    return columns, {**about, "kind": task["kind"]}
