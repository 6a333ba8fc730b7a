"""Scores as integers that order like them, part by part: what exact selection counts and compares.

Floats that are not negative order as their bit patterns. Half-precision scores keep 15 bits, others 31.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any

import numpy as np
import torch
from torch import Tensor

from essential_sparsity.checkpoints.tensors import WeightFiles
from essential_sparsity.errors import UserError
from essential_sparsity.methods.scores import Score, ScoreContext
from essential_sparsity.methods.statistics import Options

Keys = np.ndarray[Any, np.dtype[Any]]

# Values of a part: small enough for a core's cache with what is made of them, large enough to hide Python.
PART = 1 << 17
# Bit patterns of a weight in half precision: where a score depends on nothing else, it is computed once for each.
PATTERNS = 1 << 16
PATTERN_PART = 1 << 19
_HALF = (torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class KeySource:
    """The keys of a pool of matrices.

    Attributes:
        sizes: Number of weights of each matrix, in the model's order.
        bits: 16 or 32: the width of a key.
        load: Returns the keys of a matrix from one flat index to another; several threads may call it.
        table: The key of every bit pattern of a weight, -1 where its score is not finite or negative; None if a key
            depends on more than the weight's 16 bits.
        patterns: Returns the weights' bit patterns, int32, as ``load`` returns their keys; None without a table.
    """

    sizes: Mapping[str, int]
    bits: int
    load: Callable[[str, int, int], Keys]
    table: Keys | None = None
    patterns: Callable[[str, int, int], Tensor] | None = None


def sortable(scores: Tensor, name: str, bits: int) -> Keys:
    """Return the keys of scores, flat: int16 of half-precision scores where ``bits`` is 16, int32 otherwise.

    Raises:
        UserError: A score is negative, NaN or infinite.
    """
    flat = scores.detach().flatten().cpu()
    if bits == 16:
        keys: Keys = flat.view(torch.int16).numpy()
        infinity = _bits_of_infinity(flat.dtype)
    else:
        keys = flat.to(torch.float32).view(torch.int32).numpy()
        infinity = 0x7F800000
    if len(keys) and int(keys.min()) < 0:
        # Either a negative score, or -0.0, whose sign bit would put it last: adding zero makes it 0.0.
        zeroed = flat.to(torch.float32) + 0.0
        keys = (zeroed.to(flat.dtype).view(torch.int16) if bits == 16 else zeroed.view(torch.int32)).numpy()
    if len(keys) and not 0 <= int(keys.min()) <= int(keys.max()) < infinity:
        raise UserError(
            where=f"matrix {name}",
            found="a score that is negative, NaN or infinite",
            expected="finite weights, whose scores are finite and not negative",
            mend="use a checkpoint with finite weights",
        )
    return keys


def _bits_of_infinity(dtype: torch.dtype) -> int:
    return int(torch.tensor(torch.inf, dtype=dtype).view(torch.int16))


def keys_of_files(files: WeightFiles, names: Sequence[str], score: Score, seed: int, options: Options) -> KeySource:
    """Return the keys of an elementwise score, read and computed part by part."""
    dtypes = {files.tensors[name].dtype for name in names}
    # A score may widen its weights: asked once, of no weights.
    found = {score.compute(torch.zeros(0, dtype=dtype), ScoreContext(options=options)).dtype for dtype in dtypes}
    half = len(found) == 1 and found <= set(_HALF)

    def load(name: str, start: int, stop: int) -> Keys:
        context = ScoreContext(name, seed, start, options=options)
        return sortable(score.compute(files.read_part(name, start, stop), context), name, 16 if half else 32)

    sizes = {name: files.tensors[name].size for name in names}
    if not half or score.stochastic or found != dtypes:
        return KeySource(sizes, 16 if half else 32, load)

    def patterns(name: str, start: int, stop: int) -> Tensor:
        return files.read_part(name, start, stop).view(torch.uint16).to(torch.int32)

    return KeySource(sizes, 16, load, _key_table(next(iter(dtypes)), score, options), patterns)


def _key_table(dtype: torch.dtype, score: Score, options: Options) -> Keys:
    """Return the key of every bit pattern of a half-precision weight; -1 where its score is refused."""
    every = torch.arange(PATTERNS, dtype=torch.int32).to(torch.uint16).view(dtype)
    scores = score.compute(every, ScoreContext(options=options))
    # Adding zero makes -0.0 the same as 0.0.
    keys: Keys = (scores + 0.0).view(torch.int16).to(torch.int32).numpy()
    keys[~(torch.isfinite(scores) & (scores >= 0)).numpy()] = -1
    return keys


def keys_of_scores(sizes: Mapping[str, int], scores_of: Callable[[str], Tensor]) -> KeySource:
    """Return the keys of a score that needs the whole matrix; two matrices' are held at a time."""
    held: dict[str, Keys] = {}
    lock = Lock()

    def load(name: str, start: int, stop: int) -> Keys:
        with lock:
            if name not in held:
                if len(held) > 1:
                    held.pop(next(iter(held)))
                held[name] = sortable(scores_of(name), name, 32)
            return held[name][start:stop]

    return KeySource(sizes, 32, load)
