"""The example of a score works as it is printed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from essential_sparsity.checkpoints.manifest import Matrix
from essential_sparsity.methods import scores
from essential_sparsity.methods.method import Method, check_method
from essential_sparsity.pruning.prune import prune_matrix

ROOT = Path(__file__).resolve().parents[2]


def test_the_example_of_a_score_is_all_that_a_method_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(def .*?)```", text, flags=re.DOTALL)
    assert len(example.strip().splitlines()) <= 10
    registry = dict(scores.SCORES)
    monkeypatch.setattr(scores, "SCORES", registry)
    exec(example, {**vars(scores), "Tensor": Tensor})
    assert "standardised" in registry
    monkeypatch.setitem(scores.SCORES, "standardised", registry["standardised"])
    for module in ("methods.method", "pruning.prune"):
        monkeypatch.setattr(f"essential_sparsity.{module}.SCORES", registry)
    method = Method("standardised", "layer")
    check_method(method, "docs/methods.md")
    # A row of large weights and one of small ones: magnitude would empty the second.
    weight = torch.tensor([[10.0, 20.0, 30.0, 40.0], [1.0, 2.0, 3.0, 4.0]])
    (result,) = prune_matrix(weight, Matrix("w", (2, 4), True, ""), method, [0.5], 0, None)
    assert f"{int(result.packed[0]):08b}" == "00110011"
