"""Where each tensor of a checkpoint ends up in the model that transformers builds of it.

transformers 5 renames tensors on loading, and fuses some: the experts of a mixture-of-experts model, stored one by one,
become one parameter. What it will do is asked of its own conversion rules, with tensors of a single element that carry
a number each, so no weight is read.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from essential_sparsity.errors import UserError, first_line

# transformers' operations that keep every value and its order within a tensor.
_FOLLOWED = ("MergeModulelist", "Concatenate")


@dataclass(frozen=True)
class Placement:
    """A stored tensor's place.

    Attributes:
        parameter: The name of the parameter or buffer.
        part: Start and stop in each of its dimensions; empty for the whole.
    """

    parameter: str
    part: tuple[tuple[int, int], ...] = ()


def place_tensors(model: nn.Module, stored: Mapping[str, tuple[int, ...]], where: str) -> dict[str, Placement]:
    """Return the place of every stored tensor that the model has one for.

    Args:
        model: A transformers model, which may be on the ``meta`` device; of any other module, names are kept.
        stored: Shape of each tensor of the checkpoint.
        where: The model's name, for messages.

    Raises:
        UserError: transformers converts a tensor in a way that cannot be followed to its weights.
    """
    targets = model.state_dict(keep_vars=True)
    try:
        groups = _conversions(model, stored, targets)
    except (ImportError, AttributeError, TypeError) as error:
        raise RuntimeError(f"transformers' rules of conversion have changed: {first_line(error)}") from error
    places: dict[str, Placement] = {}
    for target, (converter, sources) in groups.items():
        if converter is None:
            places.update({name: Placement(target) for name, _ in sources})
        else:
            places.update(_fused(target, converter, sources, model, stored, where))
    return places


def _conversions(
    model: nn.Module, stored: Collection[str], targets: Mapping[str, Tensor]
) -> dict[str, tuple[Any, list[tuple[str, str]]]]:
    """Return, for each parameter, its converter (None if it is only renamed) and its sources: name and pattern."""
    from transformers import PreTrainedModel

    if not isinstance(model, PreTrainedModel):
        return {name: (None, [(name, "")]) for name in stored if name in targets}
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, dot_natural_key, rename_source_key

    rules = get_model_conversion_mapping(model)
    renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
    converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
    by_pattern = {pattern: rule for rule in converters for pattern in rule.source_patterns}
    prefix = model.base_model_prefix
    groups: dict[str, tuple[Any, list[tuple[str, str]]]] = {}
    for name in sorted(stored, key=dot_natural_key):
        target, pattern = rename_source_key(name, renamings, converters, prefix, targets)
        if target not in targets:
            target, pattern = rename_source_key(name, [], [], prefix, targets)
        if target not in targets:
            continue
        converter = by_pattern[pattern] if pattern is not None else None
        groups.setdefault(target, (converter, []))[1].append((name, pattern or ""))
    return groups


def _fused(
    target: str, converter: Any, sources: list[tuple[str, str]], model: nn.Module,
    stored: Mapping[str, tuple[int, ...]], where: str,
) -> dict[str, Placement]:  # fmt: skip
    """Follow tensors of one element through a converter's operations."""
    parameter = model.get_parameter(target)
    collected: dict[str, Any] = {}
    for number, (name, pattern) in enumerate(sources):
        collected.setdefault(pattern, []).append(torch.full((1,) * len(stored[name]), float(number)))
    try:
        for operation in converter.operations:
            if not _is_followed(operation, parameter, [stored[name] for name, _ in sources]):
                raise ValueError(f"by {type(operation).__name__}")
            collected = operation.convert(
                collected, source_patterns=converter.source_patterns, target_patterns=converter.target_patterns,
                full_layer_name=target, model=model, config=model.config, missing_keys=None,
            )  # fmt: skip
        (tags,) = collected.values()
        tags = tags[0] if isinstance(tags, list) else tags
        places = {}
        for number, (name, _) in enumerate(sources):
            (spot,) = (tags == number).nonzero().tolist()
            steps = [size // count for size, count in zip(parameter.shape, tags.shape, strict=True)]
            part = tuple((at * step, (at + 1) * step) for at, step in zip(spot, steps, strict=True))
            if tuple(b - a for a, b in part if b - a > 1) != tuple(n for n in stored[name] if n > 1):
                raise ValueError(f"shape {stored[name]} does not fit into {tuple(parameter.shape)}")
            places[name] = Placement(target, part if len(sources) > 1 else ())
    except (ValueError, RuntimeError, IndexError, KeyError, TypeError) as error:
        raise UserError(
            where=f"model {where} ({type(model).__name__}), matrix {target}",
            found=f"that transformers converts it from {len(sources)} tensors ({first_line(error)})",
            expected="tensors that are renamed, stacked or concatenated on loading",
            mend="load the model with transformers and save it as it is in memory, under the model's own names",
        ) from error
    return places


def _is_followed(operation: Any, parameter: Tensor, shapes: list[tuple[int, ...]]) -> bool:
    """Say whether an operation hands tensors on as they are: a permutation, say, does not."""
    if getattr(operation, "check_dims", False):
        # A transposition of tensors that are stored the other way round only.
        return shapes == [tuple(parameter.shape)]
    return type(operation).__name__ in _FOLLOWED


def part_of(parameter: Tensor, part: tuple[tuple[int, int], ...], shape: tuple[int, ...]) -> Tensor:
    """Return the view of a parameter that a stored tensor fills, in the tensor's shape."""
    for dimension, (start, stop) in enumerate(part):
        parameter = parameter.narrow(dimension, start, stop - start)
    # Dimensions of size 1 alone are dropped, which a view of any strides allows.
    return parameter.view(shape) if part else parameter
