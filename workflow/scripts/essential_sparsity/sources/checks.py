"""What of a local model's files is known to be wrong before any job starts."""

from __future__ import annotations

from essential_sparsity.checkpoints.files import CONFIG
from essential_sparsity.errors import UserError, quoted
from essential_sparsity.sources.fetch import local_files
from essential_sparsity.sources.kinds import Local

_WEIGHTS = (".safetensors", ".bin", ".gguf")


def check_local_model(source: Local, where: str) -> None:
    """Check that a local file or folder can hold a model.

    Args:
        source: Where it is.
        where: Its place, for messages.

    Raises:
        UserError: There is nothing at that path, no file of weights, no configuration beside them, or a digest of a
            folder.
    """
    names = {file.name for file in local_files(source, where)}
    suffixes = {suffix for suffix in _WEIGHTS if any(name.endswith(suffix) for name in names)}
    if not suffixes:
        raise UserError(
            f"{where}.path", f"'{source.path}', with no weights among {quoted(sorted(names)[:8]) or 'no files'}",
            f"a file that ends in {quoted(_WEIGHTS)}, or a folder with one", "name what holds the weights",
        )  # fmt: skip
    # A GGUF file holds its configuration.
    if CONFIG not in names and ".gguf" not in suffixes:
        raise UserError(
            f"{where}.path", f"'{source.path}', weights without a {CONFIG}",
            f"a folder with the model's {CONFIG} beside its weights", "put it there, and name the folder",
        )  # fmt: skip
    if source.sha256 and source.place.is_dir():
        raise UserError(
            f"{where}.sha256", f"a digest for the folder '{source.path}'", "the SHA-256 of a single file",
            "name the file, or leave out `sha256`",
        )  # fmt: skip
