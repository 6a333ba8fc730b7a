"""Which weights of a model can be pruned: found by the type of their module and its place, never by a model's name."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from essential_sparsity.checkpoints.manifest import OUTSIDE, Matrix
from essential_sparsity.checkpoints.placement import Placement, place_tensors
from essential_sparsity.errors import UserError, did_you_mean

LINEAR_TYPES = (nn.Linear, Conv1D)


def block_prefixes(model: nn.Module) -> list[str]:
    """Return the names of the transformer blocks, in the model's order.

    A block is an element of an outermost ``ModuleList`` whose elements hold linear layers: that is how transformers
    stacks the layers of every encoder and decoder. A list of mere linear layers is one of heads.
    """
    prefixes: list[str] = []
    for name, module in model.named_modules():
        if not isinstance(module, nn.ModuleList) or any(name.startswith(f"{p}.") for p in prefixes):
            continue
        for index, block in enumerate(module):
            if not isinstance(block, LINEAR_TYPES) and any(isinstance(m, LINEAR_TYPES) for m in block.modules()):
                prefixes.append(f"{name}.{index}")
    return prefixes


def block_of(name: str, prefixes: Sequence[str]) -> int:
    """Return the number of the block that a parameter lies in; -1 outside the blocks."""
    return next((i for i, prefix in enumerate(prefixes) if name.startswith(f"{prefix}.")), OUTSIDE)


def missing_weights(where: str, names: list[str]) -> UserError:
    """Return the error of weights that a checkpoint lacks and transformers would fill in at random."""
    shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    return UserError(
        where=where,
        found=f"no weights for {len(names)} tensors of the model ({shown})",
        expected="a checkpoint that holds every weight of the transformer blocks",
        mend="fetch all shards of the checkpoint, and check that its config.json is its own",
    )


def is_fused_experts(module: nn.Module | None, tensor: Tensor) -> bool:
    """Say whether a parameter holds the weights of all experts: (experts, outputs, inputs), or transposed."""
    return tensor.ndim == 3 and getattr(module, "num_experts", None) == tensor.shape[0]


def is_transposed(module: nn.Module | None) -> bool:
    """Say whether a module's weights are (inputs, outputs), not (outputs, inputs)."""
    said = getattr(module, "is_transposed", isinstance(module, Conv1D))
    if said or module is None:
        return bool(said)
    # Llama 4's experts do not say: what the one takes in, the model's width, is what the other gives out.
    shapes = [p.shape for p in module._parameters.values() if p is not None and is_fused_experts(module, p)]
    return len(shapes) == 2 and shapes[0][1] == shapes[1][2] and shapes[0][2] != shapes[1][1]


def is_router(module: nn.Module, parent: nn.Module | None) -> bool:
    """Say whether a module decides which experts a token goes to, or whether it goes to the shared one."""
    near = [module] if parent is None else [module, parent, *parent.children()]
    outputs = getattr(module, "out_features", None)
    named = any("Router" in type(m).__name__ for m in (module, parent))
    return named or outputs == 1 or outputs in [getattr(m, "num_experts", ...) for m in near]


def _classify(tensor: Tensor, module: nn.Module | None, parent: nn.Module | None, inside: bool) -> tuple[bool, str]:
    """Return whether a parameter is pruned by default, and why or why not."""
    if is_fused_experts(module, tensor) and inside:
        return True, "expert weight in a transformer block"
    if inside and tensor.ndim == 2 and module is not None and is_router(module, parent):
        return False, "router of experts"
    if isinstance(module, LINEAR_TYPES) and tensor.ndim == 2:
        if inside:
            return True, "linear weight in a transformer block"
        return False, "linear weight outside the transformer blocks (head, pooler or projection)"
    if isinstance(module, nn.Embedding):
        return False, "embedding"
    if tensor.ndim < 2:
        return False, "norm, bias or other vector"
    return False, f"not a linear weight ({type(module).__name__})"


def _matched(matrix: Matrix, patterns: Sequence[str]) -> str | None:
    return next((p for p in patterns if fnmatchcase(matrix.name, p) or fnmatchcase(matrix.parameter, p)), None)


def _may_be_pruned(matrix: Matrix) -> bool:
    """Say whether a pattern may ask for a tensor: experts of one model are a stack of matrices."""
    return bool(matrix.parameter) and (len(matrix.shape) == 2 or matrix.pruned)


def _choose(matrix: Matrix, include: Sequence[str], exclude: Sequence[str]) -> tuple[bool, str]:
    """Return whether a matrix is pruned once the patterns are applied, and why or why not."""
    if (pattern := _matched(matrix, exclude)) is not None:
        return False, f"excluded by '{pattern}'"
    if (pattern := _matched(matrix, include)) is not None and _may_be_pruned(matrix):
        return True, f"included by '{pattern}'"
    return matrix.pruned, matrix.reason


def _check_patterns(rows: Sequence[Matrix], include: Sequence[str], exclude: Sequence[str], where: str) -> None:
    for key, patterns in (("include", include), ("exclude", exclude)):
        for pattern in patterns:
            matrices = [row for row in rows if _may_be_pruned(row) or (key == "exclude" and len(row.shape) > 1)]
            if not any(_matched(row, [pattern]) for row in matrices):
                names = [row.name for row in matrices]
                raise UserError(
                    where=f"{where}, key {key}",
                    found=f"the pattern '{pattern}', which matches no matrix of the model",
                    expected=f"the name of one of its {len(names)} matrices, or a pattern such as '*.{_leaf(names)}'",
                    mend=did_you_mean(pattern, names),
                )


def _leaf(names: Sequence[str]) -> str:
    return ".".join(names[-1].split(".")[-2:]) if names else "weight"


def list_matrices(
    model: nn.Module, stored: Mapping[str, tuple[int, ...]], where: str,
    include: Sequence[str] = (), exclude: Sequence[str] = (),
) -> list[Matrix]:  # fmt: skip
    """Return a row for each tensor that a checkpoint stores, in the model's order.

    Prunable are the weights of linear layers, and of experts, inside the transformer blocks; embeddings, heads,
    routers, norms and biases stay dense (the paper, section 3: six matrices a block in BERT).

    Args:
        model: The model, which may be on the ``meta`` device.
        stored: Shape of each tensor in the checkpoint's files; tied tensors are stored once.
        where: The model's registry key, for messages.
        include: Patterns of matrices to prune besides, by their name in the checkpoint or in the model.
        exclude: Patterns of tensors to keep dense; they come before ``include``.

    Raises:
        UserError: No matrix is prunable, the checkpoint lacks one that the model has, or a pattern matches none.
    """
    prefixes = block_prefixes(model)
    modules = dict(model.named_modules())
    places = place_tensors(model, stored, where)
    _check_complete(model, places, stored, prefixes, where)
    parameters = model.state_dict(keep_vars=True)
    order = {name: i for i, name in enumerate(parameters)}
    rows: list[Matrix] = []
    for name in sorted(places, key=lambda n: (order[places[n].parameter], places[n].part)):
        place, tensor = places[name], parameters[places[name].parameter]
        path = place.parameter.rpartition(".")[0]
        owner, parent = modules.get(path), modules.get(path.rpartition(".")[0])
        block = block_of(place.parameter, prefixes)
        pruned, reason = _classify(tensor, owner, parent, block != OUTSIDE)
        shape, transposed = tuple(stored[name]), tensor.ndim > 1 and is_transposed(owner)
        row = Matrix(name, shape, pruned, reason, place.parameter, place.part, transposed, block)
        rows.append(row)
    others = sorted(stored.keys() - places)
    rows += [Matrix(name, tuple(stored[name]), False, "not a tensor of the model") for name in others]
    _check_patterns(rows, include, exclude, where)
    chosen = []
    for row in rows:
        pruned, reason = _choose(row, include, exclude)
        chosen.append(replace(row, pruned=pruned, reason=reason))
    if not any(m.pruned for m in chosen):
        raise UserError(
            where=f"model {where} ({type(model).__name__})",
            found=f"{len(rows)} tensors, none of them a linear weight inside a stack of transformer blocks",
            expected=f"a module list of blocks with {' or '.join(t.__name__ for t in LINEAR_TYPES)} layers",
            mend="choose a transformer; for another architecture, teach layers.py its linear type",
        )
    return chosen


def _check_complete(
    model: nn.Module, places: Mapping[str, Placement], stored: Mapping[str, tuple[int, ...]],
    prefixes: Sequence[str], where: str,
) -> None:  # fmt: skip
    """Check that every matrix of the blocks is filled from the checkpoint, experts wholly.

    Raises:
        UserError: Some are not.
    """
    filled: dict[str, int] = defaultdict(int)
    for name, place in places.items():
        filled[place.parameter] += math.prod(stored[name])
    absent = [
        name
        for name, parameter in model.named_parameters()
        if parameter.ndim > 1 and block_of(name, prefixes) != OUTSIDE and filled[name] != parameter.numel()
    ]
    if absent:
        raise missing_weights(f"model {where} ({type(model).__name__})", absent)
