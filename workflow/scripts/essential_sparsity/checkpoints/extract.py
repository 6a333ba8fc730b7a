"""Checkpoints: Hugging Face folders with one ``model.safetensors``, whatever the weights were stored in before."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from essential_sparsity.checkpoints.files import COMPANIONS
from essential_sparsity.checkpoints.gguf import read_once
from essential_sparsity.checkpoints.remote_code import is_trusted, own_class
from essential_sparsity.checkpoints.tensors import INDEX, WEIGHTS, WeightFiles, file_tensors, shard_files
from essential_sparsity.checkpoints.writer import header_room, writing_tensors
from essential_sparsity.errors import UserError, first_line
from essential_sparsity.files import read_json, write_json

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Weight:
    """A tensor on its way into a checkpoint.

    Attributes:
        dtype: What it is stored as.
        read: Returns it, in that type.
    """

    dtype: torch.dtype
    read: Callable[[], Tensor]


Weights = Mapping[str, Weight]


def extract(folder: Path, destination: Path, dtype: str, where: str) -> None:
    """Turn the files of a source into a checkpoint folder: ``model.safetensors``, configuration and tokenizer.

    Args:
        folder: The files as they came.
        destination: The checkpoint's folder.
        dtype: ``float32`` or ``bfloat16``: what the weights are stored as.
        where: The registry key, for messages.

    Raises:
        UserError: No format that is known, a missing shard, unreadable weights, or NaN or infinite values.
    """
    if (folder / INDEX).is_file():
        _check_shards(folder / INDEX, where)
    formats = {convert: weight_files(folder, suffix) for suffix, convert in _CONVERTERS.items()}
    convert, files = next(((c, f) for c, f in formats.items() if f), (None, []))
    if convert is None:
        raise UserError(
            where=where,
            found=f"no weights among {', '.join(sorted(p.name for p in folder.iterdir())) or 'no files at all'}",
            expected=f"a file that ends in {' or '.join(_CONVERTERS)}",
            mend="name the file or folder that holds the weights",
        )
    destination.mkdir(parents=True, exist_ok=True)
    with convert(files, destination, DTYPES[dtype], where) as weights:
        for name in COMPANIONS:
            if (folder / name).is_file():
                shutil.copyfile(folder / name, destination / name)
        if not (destination / "config.json").is_file():
            raise UserError(
                where=where,
                found="weights without a config.json",
                expected="the model's config.json beside its weights",
                mend="put the config.json of the model into the same folder",
            )
        _record_dtype(destination / "config.json", dtype)
        finite = {name: Weight(w.dtype, partial(_read_finite, w, name, where)) for name, w in weights.items()}
        save_weights(finite, destination / WEIGHTS)


def _check_shards(index: Path, where: str) -> None:
    """Check that all shards are there.

    Raises:
        UserError: Names the first that is missing, and a matrix that it holds.
    """
    try:
        shard_files(index)
    except UserError as error:
        # The folder is made of links and goes: what to mend is what the registry names.
        raise UserError(f"{where}, file {index.name}", error.found, error.expected, error.mend) from error


def _record_dtype(config: Path, dtype: str) -> None:
    """Write into a configuration what the weights are stored as: transformers loads them as it says there."""
    try:
        contents = read_json(config)
        if not isinstance(contents, dict):
            raise ValueError("no mapping")
    except ValueError as error:
        raise UserError(
            where=config.name, found=f"text that is not JSON ({error})", expected="the model's configuration",
            mend="fetch the file again",
        ) from error  # fmt: skip
    contents.pop("torch_dtype", None)
    write_json(config, {**contents, "dtype": dtype})


def weight_files(folder: Path, suffix: str) -> list[Path]:
    """Return the files that hold a model's weights in one format: one, or its shards.

    Where some have the names that transformers gives to weights, the others (an optimiser's state, the arguments of a
    training) are left out.
    """
    files = sorted(folder.glob(f"*{suffix}"))
    named = [file for file in files if file.name.startswith(("model", "pytorch_model"))]
    return named or files


def held_weights(state: Mapping[str, Tensor], dtype: torch.dtype | None = None) -> Weights:
    """Return tensors in memory as weights to store, those of floating-point numbers as ``dtype`` if one is given."""
    types = {name: dtype if dtype is not None and t.is_floating_point() else t.dtype for name, t in state.items()}
    return {name: Weight(types[name], partial(t.to, types[name])) for name, t in state.items()}


def save_weights(weights: Weights, path: Path) -> None:
    """Write safetensors, one tensor at a time in memory, atomically; no two may share memory."""
    # The widest first, so that each begins at a multiple of its width.
    names = sorted(weights, key=lambda name: -weights[name].dtype.itemsize)
    metadata = {"format": "pt"}
    with writing_tensors(path, header_room(names, len(str(metadata)))) as writer:
        for name in names:
            writer.put(name, weights[name].read())
        writer.finish(metadata)


def _read_finite(weight: Weight, name: str, where: str) -> Tensor:
    """Read a weight and refuse NaN and infinite values: every score and every loss would be worthless.

    Raises:
        UserError: Names the matrix and how many of its values are not finite.
    """
    tensor = weight.read()
    if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
        bad = int((~torch.isfinite(tensor)).sum())
        raise UserError(
            where=f"{where}, matrix {name}",
            found=f"{bad} NaN or infinite values of {tensor.numel()}",
            expected="finite weights",
            mend="use another checkpoint: this one is damaged or its training diverged",
        )
    return tensor


def without_tied(state: dict[str, Tensor], tied: Mapping[str, str] | list[str] | None) -> dict[str, Tensor]:
    """Drop the names that share another tensor's memory, since safetensors stores each byte once.

    Args:
        state: A model's state dict.
        tied: The model's own list of names that it ties at load.
    """
    kept: dict[str, Tensor] = {}
    owners: dict[int, str] = {}
    later = set(tied or ())
    for name in sorted(state, key=lambda n: n in later):
        pointer = state[name].data_ptr()
        if pointer in owners and state[owners[pointer]].shape == state[name].shape:
            continue
        owners[pointer] = name
        kept[name] = state[name]
    return kept


@contextmanager
def _from_safetensors(files: list[Path], destination: Path, dtype: torch.dtype, where: str) -> Iterator[Weights]:
    """Read tensor by tensor while the checkpoint is written: its size does not matter."""
    tensors = {}
    for file in files:
        try:
            tensors.update(file_tensors(file))
        except UserError as error:
            raise UserError(f"{where}, file {file.name}", error.found, error.expected, error.mend) from error
    with WeightFiles(tensors) as stored:
        types = {name: dtype if t.dtype.is_floating_point else t.dtype for name, t in tensors.items()}
        yield {name: Weight(t, partial(_read_as, stored, name, t)) for name, t in types.items()}


def _read_as(stored: WeightFiles, name: str, dtype: torch.dtype) -> Tensor:
    return stored.read(name).to(dtype)


@contextmanager
def _from_pickle(files: list[Path], destination: Path, dtype: torch.dtype, where: str) -> Iterator[Weights]:
    """Read ``.bin`` files. ``weights_only=True`` refuses everything in a pickle that is not a tensor."""
    state: dict[str, Tensor] = {}
    for file in files:
        try:
            loaded = torch.load(file, map_location="cpu", weights_only=True)
            if not isinstance(loaded, dict) or not all(isinstance(t, Tensor) for t in loaded.values()):
                raise ValueError("not a mapping of names to tensors")
            state.update(loaded)
        except (
            pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, TypeError, KeyError, IndexError,
            AttributeError, MemoryError,
        ) as error:  # fmt: skip
            raise _unreadable(file, where, error) from error
    # A tensor may be a part of another's memory, which safetensors does not store.
    own = {
        n: t if t.untyped_storage().nbytes() == t.nbytes else t.clone() for n, t in without_tied(state, None).items()
    }
    yield held_weights(own, dtype)


@contextmanager
def _from_gguf(files: list[Path], destination: Path, dtype: torch.dtype, where: str) -> Iterator[Weights]:
    """Dequantise a GGUF file once, and write the configuration and the tokenizer that it holds.

    The loaded model refuses ``save_pretrained`` (it counts as quantised), so the state dict and a configuration
    without the quantisation entry are written instead.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    file = files[0]
    if len(files) > 1:
        raise UserError(
            where=where,
            found=f"{len(files)} GGUF files ({', '.join(f.name for f in files)})",
            expected="one",
            mend="name the file instead of its folder",
        )
    try:
        # Said outright: where nothing is said, transformers asks at the terminal.
        with read_once():
            model = AutoModelForCausalLM.from_pretrained(
                file.parent, gguf_file=file.name, dtype=dtype, trust_remote_code=False
            )
            tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name, trust_remote_code=False)
    except (ValueError, OSError, KeyError, IndexError, RuntimeError, TypeError) as error:
        raise _unreadable(file, where, error) from error
    config = model.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    config.architectures = [type(model).__name__]
    config.save_pretrained(destination)
    tokenizer.save_pretrained(destination)
    yield held_weights(without_tied(model.state_dict(), model._tied_weights_keys))


_CONVERTERS: dict[str, Callable[[list[Path], Path, torch.dtype, str], AbstractContextManager[Weights]]] = {
    ".safetensors": _from_safetensors,
    ".bin": _from_pickle,
    ".gguf": _from_gguf,
}


def _unreadable(file: Path, where: str, error: Exception) -> UserError:
    return UserError(
        where=f"{where}, file {file.name}",
        found=f"a checkpoint that cannot be read ({type(error).__name__}: {first_line(error)})",
        expected="safetensors, a pickle of tensors only, or GGUF of an architecture that transformers can dequantise",
        mend="fetch the file again, or convert it with the tool that wrote it",
    )


def read_config(folder: Path) -> Any:
    """Read a checkpoint's configuration.

    Raises:
        UserError: It is not JSON, or of an architecture that this transformers does not know.
    """
    import transformers

    try:
        return transformers.AutoConfig.from_pretrained(folder, trust_remote_code=is_trusted(folder))
    except (ValueError, KeyError, OSError, TypeError) as error:
        raise UserError(
            where=str((folder / "config.json").resolve()),
            found=f"a configuration that transformers {transformers.__version__} cannot read ({first_line(error)})",
            expected="the configuration of a transformer that it knows",
            mend="correct the file; a model that needs code of its own runs only with `trust_remote_code: true`",
        ) from error


def architecture_class(folder: Path) -> Any:
    """Return the class that the checkpoint's own configuration names: transformers', or that of a trusted model.

    Raises:
        UserError: The configuration names none, or one that this transformers does not have.
    """
    import transformers

    config = read_config(folder)
    names = config.architectures or []
    found = next((getattr(transformers, name) for name in names if hasattr(transformers, name)), None)
    found = found or own_class(config, folder)
    if found is None:
        raise UserError(
            where=f"{(folder / 'config.json').resolve()}, key architectures",
            found=f"{names or 'nothing'}",
            expected=f"the name of a model class of transformers {transformers.__version__}",
            mend="write the class that the weights belong to, such as ['BertForMaskedLM']",
        )
    return found


def empty_model(folder: Path) -> nn.Module:
    """Build the checkpoint's model without memory for its weights (on torch's ``meta`` device)."""
    model_class = architecture_class(folder)
    with torch.device("meta"):
        model: nn.Module = model_class(read_config(folder))
    return model
