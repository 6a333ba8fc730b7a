"""Which files of a staged dataset repository hold a split: as its README says, or as such repositories are laid out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

import yaml

from essential_sparsity.errors import UserError, quoted
from essential_sparsity.files import read_json

# What `datasets` calls the reader of a kind of file.
READERS = {".parquet": "parquet", ".json": "json", ".jsonl": "json", ".csv": "csv"}

# Folders in which repositories of a single configuration keep their files.
_PLAIN = ("", "data", "default")


def staged_folder(inputs: Mapping[str, str], path: str) -> tuple[Path, str | None]:
    """Return the folder with a dataset's files, and the repository that they are of, if that is known.

    Args:
        inputs: Paths: of a download from the hub ``index`` and ``dataset``, the folder.
        path: The local folder, if there is no index.
    """
    if "index" not in inputs:
        return Path(path), None
    return Path(inputs["dataset"]), str(read_json(inputs["index"])["repository"])


def split_files(folder: Path, config: str | None, split: str, where: str) -> list[Path]:
    """Return the files of a split.

    The ``configs`` of the folder's README decide, as on the hub; where it has none, or not this one, the layout does:
    ``<config>/<split>-*.parquet``, ``<config>/*_<split>.parquet``, or ``<config>/<split>/*.parquet``, which is that of
    the hub's own conversions.

    Args:
        folder: What was downloaded, with the paths of the repository.
        config: The name of the configuration; None for the only one.
        split: Such as ``test``.
        where: What asks for them, for messages.

    Raises:
        UserError: There are none, several configurations have the split and none is named, or the README names files
            outside the folder.
    """
    if not folder.is_dir():
        raise UserError(where, f"no folder {folder}", "a folder with the files of a dataset", "correct the path")
    patterns = _named(_readme_configs(folder), config).get(split, [])
    if outside := next((p for p in patterns if PurePath(p).is_absolute() or ".." in PurePath(p).parts), None):
        raise UserError(
            where=f"{folder / 'README.md'}, configs",
            found=f"the pattern '{outside}', which leads out of the folder",
            expected="patterns of files in the folder",
            mend="do not trust these data; or correct the README, or delete it: the layout of the folder then decides",
        )
    found = sorted({path for pattern in patterns for path in folder.glob(pattern) if path.suffix in READERS})
    if found:
        return found
    homes = _laid_out(folder, split)
    if config in homes:
        return homes[config]
    matching = {home: paths for home, paths in homes.items() if _is_home_of(home, config)}
    if len(matching) == 1:
        return matching.popitem()[1]
    name = config or "data"
    raise UserError(
        where=f"{where}, folder {folder}",
        found=f"the split '{split}' of several configurations, {quoted(sorted(matching))}" if matching
        else f"no files of the split '{split}'{f' of the configuration {config!r}' if config else ''}"
        f" (that split there is of: {quoted(sorted(homes)) or 'nothing'})",
        expected=f"files such as {name}/{split}-00000-of-00001.parquet, or README.md naming them under `configs`",
        mend=f'add "{name}/{split}-*" to the patterns of `files` in the dataset\'s entry'
        " (as the repository names its files), or put the files there",
    )  # fmt: skip


def _laid_out(folder: Path, split: str) -> dict[str, list[Path]]:
    """Return the files that are a split's by their names, by the folder of their configuration."""
    homes: dict[str, list[Path]] = {}
    for path in sorted(p for p in folder.rglob("*") if p.suffix in READERS):
        parents = path.relative_to(folder).parts[:-1]
        if re.fullmatch(rf"(.*[-_.])?{re.escape(split)}(-\d+-of-\d+.*)?", path.stem):
            home = parents
        elif parents and parents[-1] == split:
            home = parents[:-1]
        else:
            continue
        homes.setdefault("/".join(home), []).append(path)
    return homes


def _is_home_of(home: str, config: str | None) -> bool:
    """Say whether a folder may be that of a configuration."""
    if config is None:
        return True
    return home == config or home.endswith(f"/{config}") or (config == "default" and home in _PLAIN)


def _readme_configs(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the configurations in the head of the folder's README by name; empty without one.

    Raises:
        UserError: The head is no YAML.
    """
    readme = folder / "README.md"
    if not readme.is_file():
        return {}
    lines = readme.read_text(encoding="utf-8").splitlines()
    if not lines or lines[0].strip() != "---" or "---" not in lines[1:]:
        return {}
    try:
        head = yaml.safe_load("\n".join(lines[1 : lines.index("---", 1)]))
    except yaml.YAMLError as error:
        raise UserError(
            where=f"{readme}, lines 1 to {lines.index('---', 1) + 1}",
            found=f"what is no YAML ({str(error).splitlines()[0]})",
            expected="the head of a dataset's card",
            mend="correct it, or delete the file: the layout of the folder then decides",
        ) from error
    configs = head.get("configs") if isinstance(head, dict) else None
    return {str(entry.get("config_name", "default")): entry for entry in configs or []}


def _named(configs: Mapping[str, Mapping[str, Any]], config: str | None) -> dict[str, list[str]]:
    """Return the patterns of each split of a configuration: of the default one if none is named."""
    if config is None:
        marked = [name for name, entry in configs.items() if entry.get("default")]
        config = next(iter([*marked, *(["default"] if "default" in configs else []), *configs]), None)
        if not marked and config != "default" and len(configs) > 1:
            return {}
    entry = configs.get(config or "", {})
    files, base = entry.get("data_files") or [], str(entry.get("data_dir") or "")
    if isinstance(files, str) or (files and isinstance(files[0], str)):
        # Files without the name of a split are the split `train`.
        files = [{"split": "train", "path": files}]
    patterns: dict[str, list[str]] = {}
    for part in files:
        paths = [part["path"]] if isinstance(part["path"], str) else part["path"]
        patterns[str(part["split"])] = [f"{base.rstrip('/')}/{path}" if base else str(path) for path in paths]
    return patterns
