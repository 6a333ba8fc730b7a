"""Masks are compared as sets of kept weights, and a checkpoint with a mask applied is a checkpoint like any other."""

from __future__ import annotations

import io
import json
import math
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import families
import tiny
from essential_sparsity.checkpoints.loading import load_tokenizer
from essential_sparsity.checkpoints.placement import part_of
from essential_sparsity.checkpoints.tensors import INDEX, WEIGHTS, open_weights
from essential_sparsity.errors import UserError
from essential_sparsity.files import sha256_of
from essential_sparsity.pruning import tools as mask_tools
from essential_sparsity.pruning.masks import read_header
from essential_sparsity.pruning.tools import ALL, apply_mask, compare_masks, count_mask, similarity
from random_masks import random_keep, random_masks, write_masks

# A pair of masks of one shape: how many weights each removes, and the seeds they are drawn from.
pairs = st.lists(
    st.tuples(
        st.tuples(st.integers(1, 7), st.integers(1, 9)), st.floats(0, 1), st.floats(0, 1), st.integers(0, 9),
        st.integers(0, 9),
    ),
    min_size=1, max_size=4,
)  # fmt: skip


def likeness(a: set[Any], b: set[Any]) -> dict[str, float]:
    """Compare two sets by the definitions; where one divides by zero, sets that keep nothing are alike."""
    both, either = len(a & b), len(a | b)
    return {
        "kept_a": len(a),
        "kept_b": len(b),
        "kept_by_both": both,
        "jaccard": both / either if either else 1.0,
        "cosine": both / math.sqrt(len(a) * len(b)) if a and b else float(a == b),
        "overlap": both / min(len(a), len(b)) if a and b else 1.0,
    }


@settings(deadline=None, derandomize=True, max_examples=60)
@given(pairs)
def test_masks_are_compared_as_sets_of_kept_weights(
    drawn: list[tuple[tuple[int, int], float, float, int, int]],
) -> None:
    masks: tuple[dict[str, torch.Tensor], ...] = ({}, {})
    for number, (shape, sparsity_a, sparsity_b, seed_a, seed_b) in enumerate(drawn):
        size = shape[0] * shape[1]
        masks[0][f"m{number}"] = random_keep(shape, round(sparsity_a * size), seed_a)
        masks[1][f"m{number}"] = random_keep(shape, round(sparsity_b * size), seed_b)
    with TemporaryDirectory() as folder:
        a, b = Path(folder) / "a", Path(folder) / "b"
        write_masks(a, masks[0])
        write_masks(b, masks[1])
        found = compare_masks(a, b).set_index("matrix")
        turned = compare_masks(b, a).set_index("matrix")
        assert list(found.index) == [*masks[0], ALL]
        sets: list[dict[str, set[Any]]] = [
            {name: {(name, *at) for at in np.argwhere(keep.numpy()).tolist()} for name, keep in side.items()}
            for side in masks
        ]
        for side in sets:
            side[ALL] = set().union(*side.values())
        for name in found.index:
            expected = likeness(sets[0][name], sets[1][name])
            size = sum(k.numel() for n, k in masks[0].items() if name in (n, ALL))
            assert found.loc[name].to_dict() == pytest.approx({"weights": size, **expected}, rel=1e-12)
            assert turned.loc[name, "jaccard"] == found.loc[name, "jaccard"]
            assert turned.loc[name, "kept_a"] == found.loc[name, "kept_b"]
        counted = count_mask(a).set_index("matrix")
        assert list(counted.index) == [*masks[0], ALL]
        for name in counted.index:
            size = sum(k.numel() for n, k in masks[0].items() if name in (n, ALL))
            removed = size - len(sets[0][name])
            assert counted.loc[name].to_dict() == {"weights": size, "removed": removed, "sparsity": removed / size}
        assert counted.loc[ALL, "sparsity"] == read_header(a).realised


def test_a_mask_is_like_itself(tmp_path: Path) -> None:
    write_masks(tmp_path / "a", {"m": random_keep((5, 7), 12, 0), "n": random_keep((3, 3), 9, 0)})
    found = compare_masks(tmp_path / "a", tmp_path / "a")
    assert (found[["jaccard", "cosine", "overlap"]] == 1.0).all(axis=None)


def test_large_masks_are_compared_part_by_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    masks = [random_keep((99, 101), 4000, seed) for seed in (0, 1)]
    for name, keep in zip("ab", masks, strict=True):
        write_masks(tmp_path / name, {"m": keep})
    whole = compare_masks(tmp_path / "a", tmp_path / "b")
    # More than one part, and a last one that is shorter.
    monkeypatch.setattr(mask_tools, "_BYTES", 100)
    assert compare_masks(tmp_path / "a", tmp_path / "b").equals(whole)
    assert whole["kept_by_both"].tolist() == [int((masks[0] & masks[1]).sum())] * 2


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"m": (4, 5)}, r"b, matrix n: found no mask; expected shape \(2, 2\)"),
        ({"m": (5, 4), "n": (2, 2)}, r"b, matrix m: found a mask of shape \(5, 4\); expected shape \(4, 5\)"),
        ({"m": (4, 5), "n": (2, 2), "o": (1, 1)}, r"b, matrix o: found a mask of shape \(1, 1\); expected no such"),
    ],
)
def test_masks_of_different_models_are_refused_by_name(
    tmp_path: Path, other: dict[str, tuple[int, int]], message: str
) -> None:
    write_masks(tmp_path / "a", {"m": random_keep((4, 5), 3, 0), "n": random_keep((2, 2), 3, 0)})
    write_masks(tmp_path / "b", {name: random_keep(shape, 1, 0) for name, shape in other.items()})
    with pytest.raises(UserError, match=message):
        compare_masks(tmp_path / "a", tmp_path / "b")


def test_a_damaged_mask_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write_masks(path, {"m": random_keep((4, 6), 3, 0)})
    whole = bytearray(path.read_bytes())
    whole[-1] ^= 1
    path.write_bytes(whole)
    with pytest.raises(UserError, match="matrix m: found a mask that removes"):
        compare_masks(path, path)
    with pytest.raises(UserError, match="matrix m: found a mask that removes"):
        count_mask(path)


@pytest.mark.parametrize(
    ("name", "dtype", "shard", "updated"),
    [
        ("llama", torch.float32, "5GB", False),
        ("llama", torch.bfloat16, "5GB", True),
        ("llama", torch.float32, "8KB", True),
        ("llama-tied", torch.float32, "5GB", False),
        ("mixtral", torch.float32, "20KB", True),
        ("qwen3-moe", torch.bfloat16, "5GB", False),
        ("gpt2", torch.float16, "5GB", True),
        ("vit", torch.float32, "5GB", False),
        ("gpt-oss", torch.float32, "5GB", True),
    ],
)
def test_a_checkpoint_with_its_mask_applied_is_a_checkpoint(
    tmp_path: Path, name: str, dtype: torch.dtype, shard: str, updated: bool
) -> None:
    source = families.save(name, tmp_path / "dense", dtype, shard)
    assert (source / INDEX).exists() == (shard != "5GB")
    before = {path.name: path.read_bytes() for path in source.iterdir()}
    matrices = families.manifest(source)
    masks = random_masks(matrices, 0.5)
    values = {n: torch.randn(int(keep.sum())) for n, keep in masks.items()} if updated else None
    write_masks(tmp_path / "mask", masks, values)

    destination = tmp_path / "deep" / "pruned"
    apply_mask(source, tmp_path / "mask", destination)
    assert {path.name: path.read_bytes() for path in source.iterdir()} == before, "the source stays as it is"
    assert sorted(p.name for p in destination.parent.iterdir()) == ["pruned"]
    assert sorted(p.name for p in destination.iterdir()) == sorted({WEIGHTS, "config.json", *others(before)})

    dense, pruned = families.stored_tensors(source), families.stored_tensors(destination)
    assert pruned.keys() == dense.keys()
    for n, tensor in dense.items():
        expected = tensor.clone()
        if n in masks:
            expected[~masks[n]] = 0
            if values is not None:
                expected[masks[n]] = values[n].to(dtype)
        assert pruned[n].dtype == dtype
        assert torch.equal(pruned[n], expected), n
        if n in masks:
            assert int((pruned[n] == 0).sum()) == int((~masks[n]).sum())

    state = families.load(destination, name).state_dict()
    for m in matrices:
        assert torch.equal(part_of(state[m.parameter], m.part, m.shape), pruned[m.name]), m.name


def others(names: Any) -> set[str]:
    """Return the files of a folder that are neither weights nor their index."""
    return {name for name in names if not name.endswith(".safetensors") and name != INDEX}


def test_the_tokenizer_comes_along(tmp_path: Path) -> None:
    tiny.write_llama(tmp_path / "dense")
    (tmp_path / "dense" / "pytorch_model.bin").write_bytes(b"the same weights, in an older format")
    write_masks(tmp_path / "mask", random_masks(families.manifest(tmp_path / "dense"), 0.5))
    # As in a checkpoint of the workflow.
    (tmp_path / "dense" / "companions").mkdir()
    for path in (tmp_path / "dense").glob("*.json"):
        path.rename(path.parent / "companions" / path.name)
    apply_mask(tmp_path / "dense", tmp_path / "mask", tmp_path / "pruned")
    before, after = (load_tokenizer(tmp_path / name, "here") for name in ("dense/companions", "pruned"))
    assert after.get_vocab() == before.get_vocab()
    assert not (tmp_path / "pruned" / "pytorch_model.bin").exists()


@pytest.fixture
def prepared(tmp_path: Path) -> tuple[Path, Path]:
    """A checkpoint and a mask of it."""
    folder = families.save("llama", tmp_path / "dense")
    write_masks(tmp_path / "mask", random_masks(families.manifest(folder), 0.5))
    return folder, tmp_path / "mask"


def test_a_destination_that_exists_is_left_alone(tmp_path: Path, prepared: tuple[Path, Path]) -> None:
    for destination in (tmp_path / "folder", tmp_path / "file"):
        if destination.name == "folder":
            destination.mkdir()
        else:
            destination.write_text("mine")
        with pytest.raises(UserError, match="choose another name or remove it") as caught:
            apply_mask(*prepared, destination)
        assert caught.value.where == str(destination)
    assert list((tmp_path / "folder").iterdir()) == []
    assert (tmp_path / "file").read_text() == "mine"


def test_provenance_is_checked_and_names_the_mask(tmp_path: Path, prepared: tuple[Path, Path]) -> None:
    folder, mask = prepared
    said = {
        "model": "model",
        "checkpoint": "step000500",
        "weights_sha256": sha256_of(folder / WEIGHTS),
        "licence": "MIT",
    }
    (folder / "provenance.json").write_text(json.dumps(said))
    with pytest.raises(UserError, match="found a mask of model, final; expected one of model, step000500"):
        apply_mask(folder, mask, tmp_path / "pruned")
    assert not (tmp_path / "pruned").exists()
    (folder / "provenance.json").write_text(json.dumps({**said, "checkpoint": "final"}))
    apply_mask(folder, mask, tmp_path / "pruned")
    found = json.loads((tmp_path / "pruned" / "provenance.json").read_text())
    assert found["weights_sha256"] == sha256_of(tmp_path / "pruned" / WEIGHTS) != said["weights_sha256"]
    assert found["dense_weights_sha256"] == said["weights_sha256"]
    assert found["pruning"]["mask_sha256"] == sha256_of(mask)
    assert found["pruning"]["sparsity"] == 0.5
    assert found["licence"] == "MIT"


def test_a_file_in_place_of_a_checkpoint_is_refused(tmp_path: Path, prepared: tuple[Path, Path]) -> None:
    folder, mask = prepared
    with pytest.raises(UserError, match="name the folder that holds the weights"):
        apply_mask(folder / WEIGHTS, mask, tmp_path / "deep" / "pruned")
    assert not (tmp_path / "deep").exists()


def test_the_command_counts_compares_and_applies(tmp_path: Path, prepared: tuple[Path, Path]) -> None:
    folder, mask = prepared
    write_masks(tmp_path / "other", random_masks(families.manifest(folder), 0.5, seed=9))

    def command(*arguments: object) -> subprocess.CompletedProcess[str]:
        script = tiny.ROOT / "workflow" / "scripts" / "masks.py"
        return subprocess.run(
            [sys.executable, script, *map(str, arguments)], capture_output=True, text=True, check=False
        )

    counted = pd.read_csv(io.StringIO(command("count", mask).stdout))
    pd.testing.assert_frame_equal(counted, count_mask(mask))
    compared = pd.read_csv(io.StringIO(command("compare", mask, tmp_path / "other").stdout))
    pd.testing.assert_frame_equal(compared, compare_masks(mask, tmp_path / "other"))
    assert command("apply", folder, mask, tmp_path / "deep" / "pruned").returncode == 0
    apply_mask(folder, mask, tmp_path / "here")
    assert (tmp_path / "deep" / "pruned" / WEIGHTS).read_bytes() == (tmp_path / "here" / WEIGHTS).read_bytes()
    refused = command("apply", folder, mask, tmp_path / "here")
    assert refused.returncode != 0
    assert "To mend:" in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.parametrize("failure", ["other shape", "other matrix", "damaged mask", "damaged weights", "disk full"])
def test_nothing_is_half_written(
    tmp_path: Path, prepared: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, failure: str
) -> None:
    folder, mask = prepared
    matrices = [m for m in families.manifest(folder) if m.pruned]
    message, error = "", UserError
    if failure == "other shape":
        shape = {m.name: m.shape for m in matrices}[name := "model.layers.1.mlp.up_proj.weight"]
        write_masks(mask, {**random_masks(matrices, 0.5), name: random_keep(shape[::-1], 3, 0)})
        message = r"matrix model\.layers\.1\.mlp\.up_proj\.weight: found a mask of shape \(16, 32\)"
    elif failure == "other matrix":
        write_masks(mask, {**random_masks(matrices, 0.5), "model.layers.2.x.weight": random_keep((3, 3), 3, 0)})
        message = r"matrix model\.layers\.2\.x\.weight: found a mask of shape \(3, 3\); expected no such matrix"
    elif failure == "damaged mask":
        whole = bytearray(mask.read_bytes())
        whole[-1] ^= 1
        mask.write_bytes(whole)
        message = "found a mask that removes"
    elif failure == "damaged weights":
        path = folder / WEIGHTS
        path.write_bytes(path.read_bytes()[:-1])
        message = "whole safetensors file"
    else:
        written: list[str] = []

        def full(*_: Any) -> None:
            written.append("one more")
            if len(written) == 3:
                raise OSError("no space left on device")

        monkeypatch.setattr(mask_tools, "apply_to_tensor", full)
        message, error = "no space left", OSError  # type: ignore[assignment]
    before = sorted(tmp_path.iterdir())
    with pytest.raises(error, match=message):
        apply_mask(folder, mask, tmp_path / "pruned")
    assert sorted(tmp_path.iterdir()) == before


def test_a_mask_may_cover_less_than_the_checkpoint(tmp_path: Path) -> None:
    """Masks made under `exclude` hold fewer matrices; what they do not hold stays dense."""
    folder = families.save("bert", tmp_path / "dense")
    masks = random_masks(families.manifest(folder, exclude=["*.layer.0.*"]), 0.7)
    assert not any(".layer.0." in name for name in masks)
    write_masks(tmp_path / "mask", masks)
    apply_mask(folder, tmp_path / "mask", tmp_path / "pruned")
    with open_weights(folder) as dense, open_weights(tmp_path / "pruned") as pruned:
        for name in dense.tensors:
            assert torch.equal(dense.read(name), pruned.read(name)) == (name not in masks)


def test_similarity_is_the_cosine_of_the_kept_sets_over_all_matrices(tmp_path: Path) -> None:
    one = {"a": random_keep((7, 9), 30, 0), "b": random_keep((5, 11), 40, 1)}
    other = {"a": random_keep((7, 9), 45, 2), "b": random_keep((5, 11), 25, 3)}
    write_masks(tmp_path / "a", one)
    write_masks(tmp_path / "b", other)
    first, second = (np.concatenate([m.numpy().ravel() for m in side.values()]).astype(float) for side in (one, other))
    cosine = first @ second / (np.linalg.norm(first) * np.linalg.norm(second))
    both, either = np.logical_and(first, second).sum(), np.logical_or(first, second).sum()
    # Both remove 70 of 118.
    s = 70 / 118
    assert similarity(tmp_path / "a", tmp_path / "b") == pytest.approx({
        "cosine": cosine, "cosine_corrected": (cosine - (1 - s)) / s, "overlap": both / 48, "jaccard": both / either,
    })  # fmt: skip
    assert set(similarity(tmp_path / "a", tmp_path / "a").values()) == {1.0}


@pytest.mark.parametrize("removed", [(4000, 4000), (3000, 9000)])
def test_masks_that_are_drawn_apart_have_no_corrected_cosine(tmp_path: Path, removed: tuple[int, int]) -> None:
    found = []
    for seed in range(20):
        for name, count in zip("ab", removed, strict=True):
            write_masks(tmp_path / name, {"m": random_keep((100, 100), count, 2 * seed + (name == "b"))})
        found.append(similarity(tmp_path / "a", tmp_path / "b")["cosine_corrected"])
    # The mean of 20, four of its standard errors wide at most.
    assert abs(np.mean(found)) < 4 * np.std(found) / 20**0.5
    assert np.std(found) < 0.02


def test_masks_that_keep_everything_are_alike(tmp_path: Path) -> None:
    write_masks(tmp_path / "a", {"m": random_keep((3, 5), 0, 0)})
    assert similarity(tmp_path / "a", tmp_path / "a")["cosine_corrected"] == 1.0
