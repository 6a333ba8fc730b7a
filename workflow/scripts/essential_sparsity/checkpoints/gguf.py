"""Reading a GGUF file with transformers, which asks for the same things again and again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache


@contextmanager
def read_once() -> Iterator[None]:
    """Let the block read the header of each file once, and make the names of an architecture's tensors once.

    transformers reads the header, whose values are a tokenizer's entries one by one, for the configuration, the
    weights and the tokenizer each, and lists all names of tensors anew for every module of the model: of
    SmolLM2-135M that was more than half of the time to convert it. Both depend on their arguments alone.
    """
    import gguf

    slow = {name: getattr(gguf, name) for name in ("GGUFReader", "get_tensor_name_map")}
    for name, made in slow.items():
        setattr(gguf, name, cache(made))
    try:
        yield
    finally:
        for name, made in slow.items():
            setattr(gguf, name, made)
