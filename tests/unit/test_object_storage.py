"""A study whose results are in object storage has its evaluations read nothing that is on this machine alone."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from essential_sparsity.errors import UserError
from essential_sparsity.object_storage import check_study

HUB = {"kind": "hub", "repository": "a/model"}
LOCAL = {"kind": "path", "path": "folder"}


def study(dataset: dict[str, Any], prepared: bool) -> Any:
    """Return a study with one task, as far as it is asked."""
    return SimpleNamespace(
        tasks={"task": {"dataset": "dataset"}},
        used_tasks=lambda: ["task"],
        preparation=lambda task: {} if prepared else None,
        dataset_of=lambda task: {"source": dataset},
        where=lambda kind, name: f"study.yaml, key {kind}.{name}",
    )


def test_evaluations_cannot_read_a_local_folder() -> None:
    check_study(study(LOCAL, prepared=True))
    check_study(study(HUB, prepared=False))
    with pytest.raises(UserError, match=r"datasets\.dataset\.source: found a local folder.*'task' reads"):
        check_study(study(LOCAL, prepared=False))
