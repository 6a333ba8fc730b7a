"""How large a model is, as far as jobs' needs depend on it: from its file, or from its registry entry before that."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

_BYTES = {"float32": 4, "bfloat16": 2}
_USUAL_VOCABULARY = 50_000


@dataclass(frozen=True)
class ModelSize:
    """Sizes of a model.

    Attributes:
        weights: How many.
        stored_mb: What its file takes, MB of 10^6 bytes.
        width: Length of the vector that a token is between blocks.
        vocabulary: How many tokens there are; of a model of images, its longest dimension.
    """

    weights: int
    stored_mb: float
    width: int
    vocabulary: int

    @property
    def blocks(self) -> int:
        """Weights of the transformer blocks: all that are not embeddings."""
        return max(self.weights - self.vocabulary * self.width, self.weights // 4)

    @property
    def depth(self) -> float:
        """Blocks, if each has twelve times the square of its width in weights, as most have."""
        return max(1.0, self.blocks / (12 * self.width**2))


def size_of_file(path: Path) -> ModelSize:
    """Return the sizes of the model in a safetensors file; only its header is read, and that once a process.

    Of a damaged file they are guessed from its length: the job that reads it says what is wrong.

    Raises:
        FileNotFoundError: There is no such file.
    """
    return _size_of_file(path, path.stat().st_size)


@cache
def _size_of_file(path: Path, stored: int) -> ModelSize:
    try:
        with open(path, "rb") as file:
            header = json.loads(file.read(min(stored, int.from_bytes(file.read(8), "little"))))
        shapes = [entry["shape"] for name, entry in header.items() if name != "__metadata__"]
    except (ValueError, KeyError, TypeError, AttributeError):
        shapes = []
    if not shapes:
        return counted_size(stored // 4, 4)
    vectors = Counter(shape[0] for shape in shapes if len(shape) == 1)
    largest = max(shapes, key=math.prod)
    # Norms and biases are as long as a token's vector.
    width = vectors.most_common(1)[0][0] if vectors else min(largest)
    return ModelSize(sum(map(math.prod, shapes)), stored / 1e6, max(1, width), max(largest, default=1))


def registered_size(model: Mapping[str, Any]) -> ModelSize | None:
    """Return the sizes of a model by its registry entry; None if that does not say them.

    The workflow's own are what their recipe builds; of others ``parameters`` is all that is known.
    """
    bytes_each = _BYTES[model["dtype"]]
    if model["source"]["kind"] == "pretrain":
        recipe = model["source"]["recipe"]
        sizes = recipe["architecture"]
        width, tokens = sizes["hidden_size"], recipe.get("tokenizer", {}).get("vocab_size", 0)
        positions = recipe.get("sequence_length", 0)
        block = 4 * width**2 + 2 * width * sizes["intermediate_size"] + 13 * width
        weights = sizes["num_hidden_layers"] * block + (tokens + positions + width) * width
        return ModelSize(weights, weights * bytes_each / 1e6, width, tokens)
    if "parameters" not in model:
        return None
    return counted_size(model["parameters"], bytes_each)


def counted_size(weights: int, bytes_each: int) -> ModelSize:
    """Return the sizes of a model of which nothing is known but how many weights it has, in an assumed shape.

    Its width is 64 times the number of blocks, as of models between 100 million and 10 billion weights (Brown et al.,
    arXiv 2005.14165, table 2.1, between 48 and 128), and it has 50,000 tokens.
    """
    width = max(1, round((64 * weights / 12) ** (1 / 3)))
    return ModelSize(weights, weights * bytes_each / 1e6, width, min(_USUAL_VOCABULARY, weights // (2 * width)))
