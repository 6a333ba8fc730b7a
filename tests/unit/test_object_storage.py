"""A study whose results are in object storage has to say what no file will say there."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from essential_sparsity.errors import UserError
from essential_sparsity.object_storage import check_study

HUB = {"kind": "hub", "repository": "a/model"}
LOCAL = {"kind": "path", "path": "folder"}


def study(model: dict[str, Any], dataset: dict[str, Any], prepared: bool) -> Any:
    """Return a study with one model and one task, as far as it is asked."""
    return SimpleNamespace(
        models={"model": {"dtype": "float32", **model}},
        tasks={"task": {"dataset": "dataset"}},
        used_checkpoints=lambda: [("model", "final")],
        used_tasks=lambda: ["task"],
        preparation=lambda task: {} if prepared else None,
        dataset_of=lambda task: {"source": dataset},
        where=lambda kind, name: f"study.yaml, key {kind}.{name}",
    )


def test_evaluations_cannot_read_a_local_folder() -> None:
    known = {"source": HUB, "parameters": 110_000_000}
    check_study(study(known, LOCAL, prepared=True))
    check_study(study(known, HUB, prepared=False))
    with pytest.raises(UserError, match=r"datasets\.dataset\.source: found a local folder.*'task' reads"):
        check_study(study(known, LOCAL, prepared=False))
