"""Which files of a folder or a repository make up a checkpoint."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from essential_sparsity.errors import UserError, quoted

CONFIG = "config.json"

# What transformers writes beside the weights and a tokenizer or processor needs to load.
COMPANIONS = (
    CONFIG, "generation_config.json", "preprocessor_config.json", "processor_config.json", "tokenizer.json",
    "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.txt", "vocab.json", "merges.txt",
    "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "chat_template.jinja",
)  # fmt: skip

# In transformers' own order, in which nothing is unpickled that is also there as safetensors.
_WEIGHTS = (
    "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json",
)  # fmt: skip
# Other names are taken where there is only one such file.
_SINGLE = re.compile(r"[^/]+\.(safetensors|gguf)")


@contextmanager
def checkpoint_folder(inputs: Mapping[str, str]) -> Iterator[Path]:
    """Yield a folder as transformers loads it: links to what a job reads of a checkpoint.

    Args:
        inputs: Paths: ``companions``, a folder beside which the provenance lies, and, where they are read, ``weights``.
    """
    companions = Path(inputs["companions"])
    files = [companions.with_name(PROVENANCE), *(Path(inputs[name]) for name in ("weights",) if name in inputs)]
    with tempfile.TemporaryDirectory() as temporary:
        # By its name transformers calls the modules of a model that brings code.
        folder = Path(temporary) / companions.parent.name
        folder.mkdir()
        for file in (*files, *companions.iterdir()):
            (folder / file.name).symlink_to(file.resolve())
        yield folder


def is_index(name: str) -> bool:
    """Say whether a file of weights lists shards."""
    return name.endswith(".index.json")


def companions(names: Collection[str], with_code: bool) -> list[str]:
    """Return the files beside the weights: configuration, tokenizer, processor and, ``with_code``, Python modules."""
    found = [name for name in COMPANIONS if name in names]
    return found + sorted(name for name in names if with_code and "/" not in name and name.endswith(".py"))


def choose_weights(names: Collection[str], where: str) -> str:
    """Return the file that holds the weights, or the index of its shards; safetensors come before ``.bin``.

    Raises:
        UserError: There is none that can be read.
    """
    singles = [name for name in names if _SINGLE.fullmatch(name)]
    chosen = next((name for name in _WEIGHTS if name in names), singles[0] if len(singles) == 1 else None)
    if chosen is None:
        near = sorted(name for name in names if not name.endswith((".md", ".py", ".txt", ".json", ".gitattributes")))
        raise UserError(
            where=where,
            found=f"no weights that can be read among its {len(names)} files ({quoted(near[:8]) or 'none of weights'})",
            expected=f"one of {quoted(_WEIGHTS)}, or a single file that ends in .safetensors or .gguf",
            mend="name a repository or revision with such weights, or convert them with transformers and use "
            "`kind: path`",
        )
    return chosen


def shards_of(index: Any, names: Collection[str], where: str) -> list[str]:
    """Return the shards that an index lists.

    Args:
        index: The content of the index.
        names: The files there are.
        where: The index, for messages.

    Raises:
        UserError: It names none, or one that is not there: the message says which, and a matrix that it holds.
    """
    files = index.get("weight_map") if isinstance(index, Mapping) else None
    if not isinstance(files, Mapping) or not files or not all(isinstance(file, str) for file in files.values()):
        raise UserError(
            where=where,
            found="an index that cannot be read: it names no shards",
            expected="a `weight_map` with the file of every tensor",
            mend="fetch the index again",
        )
    for matrix, file in files.items():
        if file not in names:
            raise UserError(
                where=where,
                found=f"no shard '{file}' beside it, which holds {matrix}",
                expected=f"all {len(set(files.values()))} shards that the index names",
                mend=f"put {file} into the folder of the index, or name a revision that is complete",
            )
    return sorted(set(files.values()))


PROVENANCE = "provenance.json"
