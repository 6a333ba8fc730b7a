"""A model's own code runs only where its registry entry says so, and then everywhere that the model is loaded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import families
from essential_sparsity.checkpoints.extract import architecture_class, empty_model, extract, read_config
from essential_sparsity.checkpoints.layers import list_matrices
from essential_sparsity.checkpoints.loading import load_model
from essential_sparsity.checkpoints.remote_code import check_remote_code, copy_code, is_trusted
from essential_sparsity.errors import UserError
from essential_sparsity.files import write_json

WHERE = "config/models.yaml, m.source"
CODE = """
from transformers import LlamaConfig, LlamaForCausalLM

open({marker!r}, "w").close()


class OwnConfig(LlamaConfig):
    model_type = "unheard-of"


class OwnForCausalLM(LlamaForCausalLM):
    config_class = OwnConfig
"""


def own_model(folder: Path, marker: Path) -> Path:
    """Save a tiny model of a type that transformers does not know, with the code that builds it."""
    families.save("llama", folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": "unheard-of", "architectures": ["OwnForCausalLM"],
        "auto_map": {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnForCausalLM"},
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text(CODE.format(marker=str(marker)))
    return folder


def checkpoint_of(source: Path, folder: Path, trusted: bool) -> Path:
    """Make a checkpoint as the workflow does."""
    extract(source, folder, "float32", WHERE)
    copy_code(source, folder, trusted)
    write_json(folder / "provenance.json", {"trust_remote_code": trusted})
    return folder


@pytest.fixture(autouse=True)
def _modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Where transformers keeps the code that it runs.
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))


def test_code_is_refused_and_never_run(tmp_path: Path) -> None:
    marker = tmp_path / "was-run"
    source = own_model(tmp_path / "source", marker)
    with pytest.raises(UserError) as caught:
        check_remote_code(source / "config.json", False, WHERE)
    assert "'unheard-of'" in caught.value.found
    assert "trust_remote_code: true" in caught.value.mend
    checkpoint = checkpoint_of(source, tmp_path / "checkpoint", False)
    assert not list(checkpoint.glob("*.py"))
    with pytest.raises(UserError, match="cannot read"):
        read_config(checkpoint)
    assert not marker.exists()


def test_a_trusted_model_is_built_listed_and_loaded(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    source = own_model(tmp_path / "source", tmp_path / "was-run")
    check_remote_code(source / "config.json", True, WHERE)
    checkpoint = checkpoint_of(source, tmp_path / "checkpoint", True)
    assert is_trusted(checkpoint)
    assert architecture_class(checkpoint).__name__ == "OwnForCausalLM"
    matrices = list_matrices(empty_model(checkpoint), families.shapes_of(checkpoint), WHERE)
    assert sum(m.pruned for m in matrices) == 14
    model = load_model(AutoModelForCausalLM, checkpoint, WHERE)
    stored = families.stored_tensors(source)["model.layers.0.mlp.up_proj.weight"]
    assert torch.equal(dict(model.named_parameters())["model.layers.0.mlp.up_proj.weight"].data, stored)


def test_code_in_another_repository_is_refused(tmp_path: Path) -> None:
    config = {"model_type": "unheard-of", "auto_map": {"AutoModel": "org/code--own.Own"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"'org/code--own\.Own', code in another repository"):
        check_remote_code(tmp_path / "config.json", True, WHERE)
