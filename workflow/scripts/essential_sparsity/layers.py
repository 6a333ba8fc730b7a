"""Which weights of a model can be pruned: found by the type of their module and its place, never by a model's name."""

from __future__ import annotations

from collections.abc import Collection

from torch import nn
from transformers.pytorch_utils import Conv1D

from essential_sparsity.errors import UserError
from essential_sparsity.manifest import Matrix

LINEAR_TYPES = (nn.Linear, Conv1D)


def block_prefixes(model: nn.Module) -> list[str]:
    """Return the names of the transformer blocks, in the model's order.

    A block is an element of an outermost ``ModuleList`` whose elements hold linear layers: that is how transformers
    stacks the layers of every encoder and decoder.
    """
    prefixes: list[str] = []
    for name, module in model.named_modules():
        if not isinstance(module, nn.ModuleList) or any(name.startswith(f"{p}.") for p in prefixes):
            continue
        for index, block in enumerate(module):
            if any(isinstance(m, LINEAR_TYPES) for m in block.modules()):
                prefixes.append(f"{name}.{index}")
    return prefixes


def missing_weights(where: str, names: list[str]) -> UserError:
    """Return the error of weights that a checkpoint lacks and transformers would fill in at random."""
    shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    return UserError(
        where=where,
        found=f"no weights for {len(names)} tensors of the model ({shown})",
        expected="a checkpoint that holds every weight of the transformer blocks",
        mend="fetch all shards of the checkpoint; if they are there, transformers renames this architecture's tensors "
        "on loading, which is not supported yet",
    )


def stored_name(name: str, model: nn.Module, stored: Collection[str]) -> str | None:
    """Return what a checkpoint calls a model's tensor, or None if it does not store it.

    Some checkpoints were saved from a model without its head and lack the prefix that the head's model gives to the
    encoder; transformers adds it on loading.
    """
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    return next((c for c in (name, name.removeprefix(prefix), prefix + name) if c in stored), None)


def list_matrices(model: nn.Module, stored: Collection[str], where: str) -> list[Matrix]:
    """Return a row for each tensor that a checkpoint stores, in the model's order.

    Prunable are the weights of linear layers inside the transformer blocks; embeddings, heads, norms and biases stay
    dense (the paper, section 3: six matrices a block in BERT).

    Args:
        model: The model, which may be on the ``meta`` device.
        stored: The names in ``model.safetensors``; tied tensors are stored once.
        where: The model's name, for messages.

    Raises:
        UserError: No matrix is prunable, or the checkpoint lacks one that the model has.
    """
    blocks = tuple(f"{prefix}." for prefix in block_prefixes(model))
    owners = {f"{name}.weight": module for name, module in model.named_modules()}
    matrices = []
    absent = []
    for name, tensor in model.state_dict(keep_vars=True).items():
        module = owners.get(name)
        named = stored_name(name, model, stored)
        if named is None:
            # Tied tensors are stored once, outside the blocks; a head that is not stored starts at random.
            absent += [name] if name.startswith(blocks) and isinstance(module, LINEAR_TYPES) else []
            continue
        inside = name.startswith(blocks)
        if isinstance(module, LINEAR_TYPES) and inside:
            pruned, reason = True, "linear weight in a transformer block"
        elif isinstance(module, LINEAR_TYPES):
            pruned, reason = False, "linear weight outside the transformer blocks (head, pooler or projection)"
        elif isinstance(module, nn.Embedding):
            pruned, reason = False, "embedding"
        elif tensor.ndim < 2:
            pruned, reason = False, "norm or bias"
        else:
            kind = type(module).__name__ if module is not None else "not a module's weight"
            pruned, reason = False, f"not a linear weight ({kind})"
        matrices.append(Matrix(named, tuple(tensor.shape), pruned, reason))
    if absent:
        raise missing_weights(f"model {where} ({type(model).__name__})", absent)
    if not any(m.pruned for m in matrices):
        raise UserError(
            where=f"model {where} ({type(model).__name__})",
            found=f"{len(matrices)} tensors, none of them a linear weight inside a stack of transformer blocks",
            expected=f"a module list of blocks with {' or '.join(t.__name__ for t in LINEAR_TYPES)} layers",
            mend="choose a transformer; for another architecture, teach layers.py its linear type",
        )
    return matrices
