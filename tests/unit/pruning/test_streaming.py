"""Statistics gathered block by block are those of plain hooks, and pruning block by block is what its paper says."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, ClassVar
from weakref import WeakSet

import numpy as np
import pytest
import torch
from greenlet import greenlet
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

import families
from essential_sparsity.checkpoints.layers import block_prefixes, list_matrices
from essential_sparsity.checkpoints.manifest import Matrix
from essential_sparsity.checkpoints.placement import part_of
from essential_sparsity.checkpoints.tensors import open_weights
from essential_sparsity.errors import UserError
from essential_sparsity.methods.method import Method
from essential_sparsity.methods.statistics import InputStatistics
from essential_sparsity.pruning import streaming as calibration
from essential_sparsity.pruning.blocks import prune_by_block
from essential_sparsity.pruning.masks import unpack
from essential_sparsity.pruning.observer import BlockObserver
from essential_sparsity.pruning.prune import PrunedMatrix, prune_matrix
from essential_sparsity.pruning.streaming import (
    ParameterLoader,
    activation_folder,
    dense_statistics,
    forward_arguments,
    streamed_model,
    visit_blocks,
)

CPU = torch.device("cpu")
Array = np.ndarray[Any, np.dtype[Any]]
Batches = Sequence[Tensor]

FAMILIES = [
    "llama", "llama-tied", "gpt2", "bert", "distilbert", "opt", "gpt-neox", "t5", "mixtral", "qwen2-moe", "qwen3-moe",
    "deepseek-v3", "switch", "gemma2",
]  # fmt: skip
# Three batches of unlike length and size.
BATCHES = [
    *families.token_batches(1, 2, 12, seed=0), *families.token_batches(1, 3, 8, seed=1),
    *families.token_batches(1, 1, 20, seed=2),
]  # fmt: skip
SEQUENCES, TOKENS = 6, 68


# --- What plain hooks see on the whole model.


def hooked_inputs(model: Any, matrices: Sequence[Matrix], batches: Batches) -> dict[str, Array]:
    """Return everything that goes into each matrix, (tokens, inputs), over all batches.

    Experts are no modules: what they are given follows from what their router has chosen, and what the second of their
    matrices is given from the first.
    """
    seen: dict[str, list[Tensor]] = defaultdict(list)
    by_owner: dict[str, list[Matrix]] = defaultdict(list)
    for m in matrices:
        by_owner[m.parameter.rpartition(".")[0]].append(m)

    def watch(module: nn.Module, rows: list[Matrix]) -> Any:
        if isinstance(module, (nn.Linear, Conv1D)):

            def linear(_: nn.Module, args: tuple[Tensor, ...]) -> None:
                for m in rows:
                    seen[m.name].append(args[0].reshape(-1, args[0].shape[-1]))

            return module.register_forward_pre_hook(linear)

        def experts(experts: Any, args: tuple[Tensor, ...]) -> None:
            hidden, chosen, _ = args
            for m in rows:
                expert = m.part[0][0]
                given = hidden.reshape(-1, hidden.shape[-1])[(chosen == expert).any(-1)]
                if m.parameter.endswith("down_proj"):
                    gate, up = (given @ experts.gate_up_proj[expert].T).chunk(2, dim=-1)
                    given = experts.act_fn(gate) * up
                if len(given):
                    seen[m.name].append(given)

        return module.register_forward_pre_hook(experts)

    hooks = [watch(model.get_submodule(owner), rows) for owner, rows in by_owner.items()]
    with torch.no_grad():
        for ids in batches:
            decoder = {"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}
            model(input_ids=ids, **decoder)
    for hook in hooks:
        hook.remove()
    return {name: torch.cat(parts).double().numpy() for name, parts in seen.items()}


def prunable(folder: Path, **patterns: list[str]) -> list[Matrix]:
    return [m for m in families.manifest(folder, **patterns) if m.pruned]


def gather(
    folder: Path, batches: Batches, with_gram: bool = False, activations: Path | None = None, **patterns: list[str]
) -> dict[str, InputStatistics]:
    """Gather dense statistics as the workflow does; no matrix may come twice."""
    found: dict[str, InputStatistics] = {}
    matrices = families.manifest(folder, **patterns)
    with open_weights(folder) as files:
        model = streamed_model(folder)
        for block in dense_statistics(model, files, matrices, batches, CPU, activations, with_gram):
            assert not found.keys() & block.keys()
            found |= block
    return found


def assert_statistics(found: InputStatistics, x: Array, sequences: int, tolerance: float = 1e-5) -> None:
    """Check statistics against the inputs themselves."""
    assert (found.samples, found.tokens) == (sequences, len(x))
    size = np.abs(x).sum(0)
    assert found.totals.numpy() == pytest.approx(x.sum(0), abs=tolerance * size.max())
    squares = (x**2).sum(0)
    # An input that is a small difference of large numbers has their rounding.
    rounding = tolerance / 10 * np.abs(x).max()
    assert found.squares.numpy() == pytest.approx(squares, rel=tolerance, abs=rounding * np.abs(x).sum())
    norms = np.sqrt(squares / sequences)
    assert found.norm().double().numpy() == pytest.approx(norms, rel=tolerance, abs=rounding)
    if found.gram is not None:
        gram = x.T @ x
        assert found.gram.double().numpy() == pytest.approx(gram, abs=tolerance * np.abs(gram).max())
        hessian = 2 / sequences * gram
        assert found.hessian().double().numpy() == pytest.approx(hessian, abs=tolerance * np.abs(hessian).max())


# --- Statistics of the dense model.


@pytest.mark.parametrize("with_gram", [False, True], ids=["moments", "gram"])
@pytest.mark.parametrize("name", FAMILIES)
def test_dense_statistics_are_those_of_plain_hooks(
    checkpoints: Callable[..., Path], name: str, with_gram: bool
) -> None:
    folder = checkpoints(name)
    matrices = prunable(folder)
    expected = hooked_inputs(families.load(folder, name), matrices, BATCHES)
    found = gather(folder, BATCHES, with_gram)
    assert found.keys() == expected.keys() == {m.name for m in matrices}, "every matrix is reached"
    for m in matrices:
        assert (found[m.name].gram is not None) == with_gram
        assert_statistics(found[m.name], expected[m.name], SEQUENCES)


@pytest.mark.parametrize("name", ["llama", "t5", "mixtral", "deepseek-v3"])
def test_a_checkpoint_in_half_precision_is_run_as_transformers_runs_it(
    checkpoints: Callable[..., Path], name: str
) -> None:
    folder = checkpoints(name, torch.bfloat16)
    matrices = [m for m in prunable(folder) if not m.part]
    expected = hooked_inputs(families.load(folder, name), matrices, BATCHES)
    found = gather(folder, BATCHES)
    for m in matrices:
        assert_statistics(found[m.name], expected[m.name], SEQUENCES)
        assert found[m.name].norm().dtype == torch.float32


def test_weights_that_a_model_asks_for_before_it_calls_them_are_there(checkpoints: Callable[..., Path]) -> None:
    """Llama 4 sends its tokens to where the embedding's weights are; its experts are no linear layers."""
    folder = checkpoints("llama4")
    matrices = [m for m in prunable(folder) if len(m.shape) == 2]
    expected = hooked_inputs(families.load(folder, "llama4"), matrices, BATCHES)
    found = gather(folder, BATCHES)
    assert found.keys() == expected.keys()
    for m in matrices:
        assert_statistics(found[m.name], expected[m.name], SEQUENCES)


def test_layers_with_the_same_inputs_share_their_statistics(checkpoints: Callable[..., Path]) -> None:
    found = gather(checkpoints("llama"), BATCHES)
    stem = "model.layers.1.self_attn"
    query, key, value, out = (found[f"{stem}.{m}_proj.weight"] for m in "qkvo")
    assert query is key is value is not out
    assert len({id(s) for s in found.values()}) == 2 * 4
    gate, up = (found[f"model.layers.0.mlp.{m}_proj.weight"] for m in ("gate", "up"))
    assert gate is up


@pytest.mark.parametrize("name", ["llama", "gpt2", "t5", "mixtral", "switch"])
def test_dense_statistics_do_not_depend_on_the_batch_size(checkpoints: Callable[..., Path], name: str) -> None:
    sequences = torch.cat(families.token_batches(3, 2, 10))
    folder = checkpoints(name)
    whole = gather(folder, [sequences], with_gram=True)
    assert {m.name for m in prunable(folder)} == whole.keys()
    for sizes in ([1] * 6, [4, 2]):
        parts = gather(folder, list(sequences.split(sizes)), with_gram=True)
        assert parts.keys() == whole.keys()
        for matrix, s in parts.items():
            assert (s.samples, s.tokens) == (6, whole[matrix].tokens)
            torch.testing.assert_close(s.gram, whole[matrix].gram, rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(s.norm(), whole[matrix].norm(), rtol=1e-4, atol=1e-5)


def test_an_expert_that_is_called_with_no_token_is_not_reached() -> None:
    """Some models call every expert, with an empty list of tokens where the router chose another."""
    block = nn.ModuleDict({"a": nn.Linear(4, 3), "b": nn.Linear(4, 3)})
    rows = [Matrix(f"file.{n}", (3, 4), True, "linear", parameter=f"blocks.0.{n}.weight", block=0) for n in "ab"]
    observer = BlockObserver(block, rows, "blocks.0", with_gram=True)
    given = [{"a": torch.ones(2, 4), "b": torch.ones(0, 4)}, {"a": torch.zeros(0, 4), "b": torch.zeros(0, 4)}]
    for inputs in given:
        with observer.observing(3):
            for name, x in inputs.items():
                block[name](x)
    assert observer.statistics.keys() == {"file.a"}
    assert_statistics(observer.statistics["file.a"], np.ones((2, 4)), 6)


def test_a_block_that_is_run_through_twice_has_the_inputs_of_both_runs(
    checkpoints: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = checkpoints("albert")
    matrices = prunable(folder)
    expected = hooked_inputs(families.load(folder, "albert"), matrices, BATCHES)
    monkeypatch.setattr(calibration, "_WORTH_A_FILE", 1)
    for activations in (None, tmp_path):
        found = gather(folder, BATCHES, with_gram=True, activations=activations)
        assert found.keys() == {m.name for m in matrices}
        for m in matrices:
            assert len(expected[m.name]) == 2 * TOKENS
            assert_statistics(found[m.name], expected[m.name], 2 * SEQUENCES)


# --- Pruning block by block.

WANDA = Method("wanda", "row", calibration="text", propagate="pruned")


def prune(
    folder: Path, batches: Batches, sparsity: float = 0.5, activations: Path | None = None, method: Method = WANDA,
    **patterns: list[str],
) -> dict[str, PrunedMatrix]:  # fmt: skip
    matrices = families.manifest(folder, **patterns)
    targets = {m.name: sparsity for m in matrices if m.pruned}
    with open_weights(folder) as files:
        model = streamed_model(folder)
        steps = prune_by_block(model, files, matrices, batches, CPU, activations, method, targets, 0)
        found: dict[str, PrunedMatrix] = {}
        for name, result in steps:
            assert name not in found
            found[name] = result
    return found


def naive_wanda(name: str, folder: Path, batches: Batches, sparsity: float) -> dict[str, Array]:
    """Prune block by block as published, on the whole model: of each block, all matrices from one run over all text.

    Returns:
        Name to what is kept, as it is stored.
    """
    model, matrices = families.load(folder, name), prunable(folder)
    sequences = sum(len(ids) for ids in batches)
    kept: dict[str, Array] = {}
    for block in sorted({m.block for m in matrices}):
        rows = [m for m in matrices if m.block == block]
        inputs = hooked_inputs(model, rows, batches)
        for m in rows:
            weight = part_of(model.get_parameter(m.parameter).data, m.part, m.shape)
            w = weight.numpy().astype(np.float64)
            w = w.T if m.transposed else w
            score = np.abs(w) * np.sqrt((inputs[m.name] ** 2).sum(0) / sequences)
            order = np.argsort(score, axis=1, kind="stable")
            keep = np.ones(w.shape, dtype=bool)
            np.put_along_axis(keep, order[:, : round(sparsity * w.shape[1])], False, axis=1)
            kept[m.name] = keep.T if m.transposed else keep
        for m in rows:
            weight = part_of(model.get_parameter(m.parameter).data, m.part, m.shape)
            weight[torch.from_numpy(~kept[m.name])] = 0
    return kept


@pytest.mark.parametrize("sparsity", [0.25, 0.7])
@pytest.mark.parametrize("name", FAMILIES)
def test_pruning_by_block_is_the_published_procedure(
    checkpoints: Callable[..., Path], name: str, sparsity: float
) -> None:
    folder = checkpoints(name)
    expected = naive_wanda(name, folder, BATCHES, sparsity)
    found = prune(folder, BATCHES, sparsity)
    assert found.keys() == expected.keys() == {m.name for m in prunable(folder)}
    for m in prunable(folder):
        assert found[m.name].values is None
        assert np.array_equal(unpack(found[m.name].packed, m.shape).numpy(), expected[m.name]), m.name


def test_later_blocks_are_pruned_by_what_pruned_blocks_hand_on(checkpoints: Callable[..., Path]) -> None:
    """What the test above would not show if it made no difference."""
    folder = checkpoints("llama")
    statistics = gather(folder, BATCHES)
    found = prune(folder, BATCHES, 0.7)
    stored = families.stored_tensors(folder)
    same = {
        m.name: np.array_equal(
            found[m.name].packed, prune_matrix(stored[m.name], m, WANDA, [0.7], 0, statistics[m.name])[0].packed
        )
        for m in prunable(folder)
    }
    assert all(equal for name, equal in same.items() if ".layers.0." in name)
    assert not all(equal for name, equal in same.items() if ".layers.1." in name)


@pytest.mark.parametrize("name", ["llama", "gpt2", "mixtral"])
def test_updated_weights_are_handed_on_as_well(checkpoints: Callable[..., Path], name: str) -> None:
    """SparseGPT changes what it keeps: the next block's inputs are those of the changed model."""
    method = Method("sparsegpt", "layer", update="sparsegpt", calibration="text", propagate="pruned")
    folder = checkpoints(name)
    found = prune(folder, BATCHES, 0.5, method=method)
    model, matrices = families.load(folder, name), prunable(folder)
    for block in (0, 1):
        rows = [m for m in matrices if m.block == block]
        inputs = hooked_inputs(model, rows, BATCHES)
        for m in rows:
            statistics = InputStatistics.empty(m.inputs, True, torch.empty(0))
            statistics.add(torch.from_numpy(inputs[m.name]).float(), SEQUENCES)
            weight = part_of(model.get_parameter(m.parameter).data, m.part, m.shape)
            outward = weight.T if m.transposed else weight
            (expected,) = prune_matrix(outward, m, method, [0.5], 0, statistics)
            assert np.array_equal(found[m.name].packed, expected.packed), m.name
            assert found[m.name].values is not None
            torch.testing.assert_close(found[m.name].values, expected.values, rtol=1e-3, atol=1e-3)
        for m in rows:
            keep = unpack(found[m.name].packed, m.shape)
            new = torch.zeros(m.shape)
            new[keep] = found[m.name].values  # type: ignore[assignment]
            part_of(model.get_parameter(m.parameter).data, m.part, m.shape).copy_(new)


@pytest.mark.parametrize("name", ["llama", "gpt2", "t5", "mixtral", "switch", "gemma2"])
def test_masks_do_not_depend_on_the_batch_size(checkpoints: Callable[..., Path], name: str) -> None:
    sequences = torch.cat(families.token_batches(3, 2, 10, seed=4))
    folder = checkpoints(name)
    whole = prune(folder, [sequences])
    assert {m.name for m in prunable(folder)} == whole.keys()
    for sizes in ([1] * 6, [4, 2]):
        parts = prune(folder, list(sequences.split(sizes)))
        assert all(np.array_equal(parts[matrix].packed, result.packed) for matrix, result in whole.items())


def test_every_batch_is_seen_by_layers_that_only_some_batches_reach(checkpoints: Callable[..., Path]) -> None:
    """Experts that are modules: the last one that a batch reaches is not the last one that any batch reaches."""
    folder = checkpoints("switch")
    batches = families.token_batches(6, 1, 3, seed=1)
    experts = [m for m in prunable(folder) if "expert" in m.name and m.block == 1]
    alone = [hooked_inputs(families.load(folder, "switch"), experts, [ids]).keys() for ids in batches]
    assert len({max(names) for names in alone}) > 1
    found: dict[str, InputStatistics] = {}
    matrices = families.manifest(folder)
    with open_weights(folder) as files:
        visits = visit_blocks(streamed_model(folder), files, matrices, batches, CPU, None, False)
        with closing(visits):  # type: ignore[type-var]
            for visit, observer in visits:
                visit.replay(observer.replaying)
                found |= observer.statistics
    expected = hooked_inputs(families.load(folder, "switch"), experts, batches)
    for m in experts:
        assert (m.name in found) == (m.name in expected)
        if m.name in expected:
            assert_statistics(found[m.name], expected[m.name], 6)


# --- What is in memory and on disk.


def in_memory(model: nn.Module) -> set[str]:
    return {name for name, p in model.named_parameters(remove_duplicate=False) if not p.is_meta}


@pytest.mark.parametrize("name", ["llama-tied", "t5", "mixtral"])
@pytest.mark.parametrize("mode", ["dense", "pruned"])
def test_only_one_blocks_weights_are_in_memory(
    checkpoints: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, name: str, mode: str
) -> None:
    folder = checkpoints(name)
    matrices, model = families.manifest(folder), streamed_model(folder)
    prefixes = block_prefixes(model)
    at_once: list[set[str]] = []
    real = ParameterLoader.fill

    def fill(loader: ParameterLoader, module: nn.Module, recurse: bool) -> None:
        real(loader, module, recurse)
        at_once.append(in_memory(model))

    monkeypatch.setattr(ParameterLoader, "fill", fill)
    assert in_memory(model) == set()
    visited = []
    with open_weights(folder) as files:
        if mode == "dense":
            for visit, observer in visit_blocks(model, files, matrices, BATCHES, CPU, None, False):
                visit.during = observer.observing
                visited.append(visit.name)
                # Nothing outside the block, and everything in it.
                of_block = {n for n, _ in model.named_parameters() if n.startswith(f"{visit.name}.")}
                assert in_memory(model) == of_block
        else:
            targets = {m.name: 0.5 for m in matrices if m.pruned}
            for _ in prune_by_block(model, files, matrices, BATCHES, CPU, None, WANDA, targets, 0):
                visited += [p for p in prefixes if any(n.startswith(f"{p}.") for n in in_memory(model))]
    assert list(dict.fromkeys(visited)) == prefixes
    assert max(len({p for p in prefixes for n in names if n.startswith(f"{p}.")}) for names in at_once) == 1
    assert in_memory(model) == set()


def test_tied_weights_are_read_once(checkpoints: Callable[..., Path]) -> None:
    folder = checkpoints("t5")
    model: Any = streamed_model(folder)
    with open_weights(folder) as files:
        loader = ParameterLoader(model, files, families.manifest(folder), CPU)
        for module in (model.shared, model.encoder.embed_tokens, model.decoder.embed_tokens):
            loader.fill(module, recurse=False)
        assert model.shared.weight is model.encoder.embed_tokens.weight is model.decoder.embed_tokens.weight
        assert torch.equal(model.shared.weight, files.read("shared.weight"))
        loader.empty(loader.filled())
    assert in_memory(model) == set()


# DeBERTa gives every block one and the same parameter.
@pytest.mark.parametrize("name", ["llama", "t5", "mixtral", "gemma2", "deberta"])
def test_activations_on_disk_give_identical_results(
    checkpoints: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(calibration, "_WORTH_A_FILE", 1)
    folder = checkpoints(name)
    statistics, masks = gather(folder, BATCHES, with_gram=True), prune(folder, BATCHES)
    written: list[Path] = []

    def save(tensors: dict[str, Tensor], path: Path) -> None:
        written.append(path)
        save_file(tensors, path)

    monkeypatch.setattr(calibration, "save_file", save)
    with activation_folder("disk", tmp_path / "beside") as activations:
        assert activations is not None
        from_disk = gather(folder, BATCHES, with_gram=True, activations=activations)
        assert len(written) >= 2 * len(BATCHES), "files were written, for two blocks at least"
        assert len(set(written)) == len(written), "and none was written twice"
        assert list(activations.iterdir()) == []
    with activation_folder("disk", tmp_path / "beside") as activations:
        masks_from_disk = prune(folder, BATCHES, activations=activations)
    assert list((tmp_path / "beside").iterdir()) == []
    assert from_disk.keys() == statistics.keys()
    for matrix, s in statistics.items():
        assert torch.equal(from_disk[matrix].gram, s.gram)  # type: ignore[arg-type]
        assert torch.equal(from_disk[matrix].totals, s.totals)
    assert masks_from_disk.keys() == masks.keys()
    assert all(np.array_equal(masks_from_disk[n].packed, r.packed) for n, r in masks.items())


# Not of experts: a token that is nearly as well sent to another one may be sent there.
@pytest.mark.parametrize("name", ["llama", "gpt2", "t5"])
@pytest.mark.parametrize("with_gram", [False, True])
def test_bfloat16_is_near_and_is_no_longer_set_where_others_compute(
    checkpoints: Callable[..., Path], name: str, with_gram: bool
) -> None:
    folder = checkpoints(name)
    exact = gather(folder, BATCHES, with_gram=with_gram)
    matrices = families.manifest(folder)
    found: dict[str, InputStatistics] = {}
    model = streamed_model(folder)
    with open_weights(folder) as files:
        for block in dense_statistics(model, files, matrices, BATCHES, CPU, None, with_gram, "bfloat16"):
            found |= block
            assert not torch.is_autocast_enabled("cpu")
            assert not any(p.requires_grad for p in model.parameters() if not p.is_meta)
    assert found.keys() == exact.keys()
    rounded = 0
    for matrix, s in found.items():
        torch.testing.assert_close(s.squares, exact[matrix].squares, rtol=0.2, atol=0.05 * float(s.squares.max()))
        rounded += not torch.equal(s.squares, exact[matrix].squares)
        if s.gram is not None:
            assert s.gram.dtype == torch.float32
            # Sums of products are those of the inputs as they are, not of rounded ones.
            assert torch.equal(s.gram.diagonal().double(), s.squares)
    assert rounded > len(found) / 2, "products were rounded"


def test_masks_in_bfloat16_differ_in_few_places(checkpoints: Callable[..., Path]) -> None:
    folder = checkpoints("llama")
    matrices = families.manifest(folder)
    targets = {m.name: 0.5 for m in matrices if m.pruned}
    found = {}
    for precision in ("float32", "bfloat16"):
        with open_weights(folder) as files:
            model = streamed_model(folder)
            results = prune_by_block(model, files, matrices, BATCHES, CPU, None, WANDA, targets, 0, precision)
            found[precision] = {n: np.unpackbits(r.packed) for n, r in results}
    differ = [np.mean(found["float32"][n] != bits) for n, bits in found["bfloat16"].items()]
    assert 0 < np.mean(differ) < 0.05


def test_a_tensor_that_the_checkpoint_lacks_is_named(tmp_path: Path) -> None:
    folder = families.save("llama", tmp_path)
    stored = families.stored_tensors(folder)
    lost = "model.layers.1.input_layernorm.weight"
    save_file({n: t for n, t in stored.items() if n != lost}, folder / "model.safetensors", metadata={"format": "pt"})
    matrices = families.manifest(folder)
    with open_weights(folder) as files, pytest.raises(UserError, match=f"no weights for 1 tensors .*{lost}"):
        list(dense_statistics(streamed_model(folder), files, matrices, BATCHES, CPU, None, with_gram=False))


def test_activations_on_disk_are_not_in_memory(
    checkpoints: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibration, "_WORTH_A_FILE", 1)
    folder = checkpoints("llama")
    with open_weights(folder) as files:
        visits = visit_blocks(
            streamed_model(folder), files, families.manifest(folder), BATCHES, CPU, tmp_path, False
        )  # fmt: skip
        for visit, _ in visits:
            assert [args[0].numel() for args, _, _ in visit.calls] == [0, 0, 0]
            for number, ids in enumerate(BATCHES):
                visit.activations(number)
                held = [args[0].numel() for args, _, _ in visit.calls]
                assert held == [16 * ids.numel() if i == number else 0 for i in range(3)]


def test_activations_in_memory_need_no_folder(tmp_path: Path) -> None:
    with activation_folder("memory", tmp_path / "beside") as folder:
        assert folder is None
    assert not (tmp_path / "beside").exists()


# --- What is refused, and what is left behind.


class Recorded(greenlet):
    """A coroutine that can be asked after."""

    living: ClassVar[WeakSet[Recorded]] = WeakSet()

    def __init__(self, run: Callable[..., Any]) -> None:
        super().__init__(run)
        self.living.add(self)


@pytest.fixture(autouse=True)
def _recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    Recorded.living.clear()
    monkeypatch.setattr(calibration, "greenlet", Recorded)


def greenlets() -> int:
    """Count the coroutines that have been started and are not finished."""
    return sum(bool(g) for g in Recorded.living)


def assert_clean(model: nn.Module, folder: Path) -> None:
    assert greenlets() == 0
    assert in_memory(model) == set()
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert list(folder.iterdir()) == []


class BrokenError(Exception):
    """What goes wrong in these tests."""


@pytest.mark.parametrize("mode", ["consumer", "block", "closed", "dropped"])
@pytest.mark.parametrize("name", ["llama", "mixtral"])
def test_a_failure_in_the_middle_leaves_nothing_behind(
    checkpoints: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str, name: str
) -> None:
    monkeypatch.setattr(calibration, "_WORTH_A_FILE", 1)
    folder = checkpoints(name)
    matrices, model = families.manifest(folder), streamed_model(folder)
    targets = {m.name: 0.5 for m in matrices if m.pruned}
    calls = []
    if mode == "block":
        norm: Any = model.get_submodule("model.layers.1.post_attention_layernorm")
        real = norm.forward

        def forward(x: Tensor) -> Tensor:
            calls.append(1)
            if len(calls) == 5:  # the second batch's own run, after three replays
                raise BrokenError
            result: Tensor = real(x)
            return result

        monkeypatch.setattr(norm, "forward", forward)

    def run(activations: Path | None) -> None:
        with open_weights(folder) as files:
            steps: Any = prune_by_block(model, files, matrices, BATCHES, CPU, activations, WANDA, targets, 0)
            for matrix, _ in steps:
                if ".layers.1." in matrix:
                    assert greenlets() == len(BATCHES)
                    if mode == "consumer":
                        raise BrokenError
                    if mode == "closed":
                        steps.close()
                    if mode == "dropped":
                        return

    with activation_folder("disk", tmp_path) as activations:
        if mode in ("consumer", "block"):
            with pytest.raises(BrokenError):
                run(activations)
        else:
            run(activations)
    assert (len(calls) == 5) == (mode == "block")
    assert_clean(model, tmp_path)


@pytest.mark.parametrize("name", ["llama", "t5"])
def test_a_run_to_the_end_leaves_nothing_behind(checkpoints: Callable[..., Path], tmp_path: Path, name: str) -> None:
    folder = checkpoints(name)
    model = streamed_model(folder)
    with open_weights(folder) as files:
        blocks = dense_statistics(model, files, families.manifest(folder), BATCHES, CPU, tmp_path, False)
        assert sum(len(block) for block in blocks) == len(prunable(folder))
    assert_clean(model, tmp_path)


def test_a_matrix_that_no_token_reaches_is_refused_by_name(tmp_path: Path) -> None:
    """Two tokens with one expert each leave two of four experts out."""
    folder = families.save("qwen3-moe", tmp_path, num_experts_per_tok=1)
    batches = families.token_batches(1, 1, 2)
    matrices = prunable(folder)
    reached = hooked_inputs(families.load(folder, "qwen3-moe"), matrices, batches)
    unreached = [m.name for m in matrices if m.name not in reached]
    assert unreached
    assert all(".experts." in name for name in unreached)
    assert gather(folder, batches).keys() == reached.keys()
    with pytest.raises(UserError, match="an expert that some token is routed to") as caught:
        prune(folder, batches)
    assert caught.value.where == f"matrix {unreached[0]}"
    # Once they are excluded, the others are pruned.
    experts = {name.rpartition(".")[0].rpartition(".")[0] for name in unreached}
    later = {m.name.rpartition(".")[0].rpartition(".")[0] for m in matrices if ".layers.1.mlp.experts" in m.name}
    patterns = [f"{expert}.*" for expert in sorted(experts | later)]
    assert prune(folder, batches, exclude=patterns).keys() == {m.name for m in prunable(folder, exclude=patterns)}


@pytest.mark.parametrize(
    ("name", "include", "refused"),
    [
        # Not in a block; a router; all experts in one tensor of the file.
        ("llama", ["model.embed_tokens.weight"], "model.embed_tokens.weight"),
        ("mixtral", ["*.gate.weight"], "model.layers.0.block_sparse_moe.gate.weight"),
        ("gpt-oss", [], "model.layers.0.mlp.experts.gate_up_proj"),
    ],
)
def test_a_matrix_whose_inputs_cannot_be_seen_is_refused_by_name(
    checkpoints: Callable[..., Path], name: str, include: list[str], refused: str
) -> None:
    folder = checkpoints(name)
    assert refused not in gather(folder, BATCHES, include=include)
    with pytest.raises(UserError, match="no statistics of its inputs") as caught:
        prune(folder, BATCHES, include=include)
    assert caught.value.where == f"matrix {refused}"


def test_a_block_that_is_run_through_twice_is_not_pruned_by_block(checkpoints: Callable[..., Path]) -> None:
    with pytest.raises(UserError, match=r"runs through more than once.*propagate: dense") as caught:
        prune(checkpoints("albert"), BATCHES)
    assert caught.value.where.startswith("matrix albert.encoder.albert_layer_groups.0.")


def test_rows_that_the_pattern_does_not_fit_are_refused_before_anything_is_run(
    checkpoints: Callable[..., Path],
) -> None:
    method = Method("wanda", "row", pattern="2:5", calibration="text", propagate="pruned")
    with pytest.raises(UserError, match=r"matrix model\.layers\.0\.self_attn\.q_proj\.weight, pattern 2:5"):
        prune(checkpoints("llama"), [], method=method)


class Looped(nn.Module):
    """A model of no library: an embedding and two blocks, called in an order that is given."""

    def __init__(self, order: tuple[int, ...], asks: bool = False) -> None:
        super().__init__()
        self.embedding = nn.Embedding(families.VOCABULARY, 4)
        self.projection = nn.Linear(4, 4)
        self.blocks = nn.ModuleList([nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(2)])
        self._order, self._asks = order, asks

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.embedding(input_ids)
        if self._asks:
            x = x.to(self.projection.weight.device)
        x = self.projection(x)
        for number in self._order:
            x = self.blocks[number](x)
        return x  # type: ignore[no-any-return]


def looped(tmp_path: Path, order: tuple[int, ...], asks: bool = False) -> Iterator[dict[str, InputStatistics]]:
    torch.manual_seed(0)
    save_file(Looped(order).state_dict(), tmp_path / "model.safetensors")
    with torch.device("meta"):
        model = Looped(order, asks)
    matrices = list_matrices(model, families.shapes_of(tmp_path), "looped")
    with open_weights(tmp_path) as files:
        yield from dense_statistics(model, files, matrices, BATCHES, CPU, None, True)


@pytest.mark.parametrize("order", [(0, 1), (0, 0, 1), (0, 1, 1, 1)])
def test_blocks_of_any_module_are_observed_as_often_as_they_are_run_through(
    tmp_path: Path, order: tuple[int, ...]
) -> None:
    found = {name: s for block in looped(tmp_path, order) for name, s in block.items()}
    model = Looped(order)
    model.load_state_dict(families.stored_tensors(tmp_path))
    seen: dict[int, list[Tensor]] = defaultdict(list)
    for i in (0, 1):
        model.blocks[i].register_forward_pre_hook(lambda _, args, i=i: seen[i].append(args[0].reshape(-1, 4)))
    with torch.no_grad():
        for ids in BATCHES:
            model(**forward_arguments(model, ids))
    for i in (0, 1):
        x = torch.cat(seen[i]).double().numpy()
        assert_statistics(found[f"blocks.{i}.0.weight"], x, SEQUENCES * order.count(i))


def test_a_model_that_comes_back_to_a_block_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="comes back to after others") as caught:
        list(looped(tmp_path, (0, 1, 0)))
    assert caught.value.where == "matrix blocks.0.0.weight"
    assert greenlets() == 0


def test_a_model_that_computes_on_weights_that_are_not_there_is_refused(tmp_path: Path) -> None:
    """torch would go on with whatever lies in memory."""
    with pytest.raises(UserError, match="module Linear: found inputs without values"):
        list(looped(tmp_path, (0, 1), asks=True))
    assert greenlets() == 0
