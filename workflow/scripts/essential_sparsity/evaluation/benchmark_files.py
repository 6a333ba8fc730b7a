"""Which files of a staged dataset repository hold a split: as its README says, or as such repositories are laid out."""

from __future__ import annotations

import re
from pathlib import Path, PurePath

import yaml

from essential_sparsity.errors import UserError, first_line, quoted

# What `datasets` calls the reader of a kind of file.
READERS = {".parquet": "parquet", ".json": "json", ".jsonl": "json", ".csv": "csv"}

# Folders in which repositories of a single configuration keep their files.
_PLAIN = ("", "data", "default")


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
    patterns = _readme_patterns(folder, config).get(split, [])
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
    of = re.escape(split)
    laid_out = re.compile(rf"(?:(.*)/)?(?:{of}/[^/]*|(?:[^/]*[-_.])?{of}(?:-\d+-of-\d+[^/]*)?)\.\w+")
    homes: dict[str, list[Path]] = {}
    for path in sorted(p for p in folder.rglob("*") if p.suffix in READERS):
        if match := laid_out.fullmatch(path.relative_to(folder).as_posix()):
            homes.setdefault(match[1] or "", []).append(path)
    if config in homes:
        return homes[config]
    wanted = re.compile(rf"(.*/)?{re.escape(config)}" if config else ".*")
    matching = [home for home in homes if wanted.fullmatch(home) or (config == "default" and home in _PLAIN)]
    if len(matching) == 1:
        return homes[matching[0]]
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


def _readme_patterns(folder: Path, config: str | None) -> dict[str, list[str]]:
    """Return the patterns of each split of a configuration, or of the default one, by the head of the folder's README.

    Raises:
        UserError: The head is not that of a dataset's card.
    """
    from datasets.data_files import sanitize_patterns
    from datasets.utils.metadata import MetadataConfigs
    from huggingface_hub import DatasetCard

    readme = folder / "README.md"
    if not readme.is_file():
        return {}
    try:
        configs = MetadataConfigs.from_dataset_card_data(DatasetCard.load(readme).data)
        entry = configs.get(config or configs.get_default_config_name(), {})
        patterns = sanitize_patterns(entry.get("data_files") or {})
    except (ValueError, yaml.YAMLError) as error:
        raise UserError(
            where=str(readme),
            found=f"a head that cannot be read ({first_line(error)})",
            expected="the head of a dataset's card",
            mend="correct it, or delete the file: the layout of the folder then decides",
        ) from error
    home = entry.get("data_dir") or ""
    return {str(split): [str(PurePath(home, path)) for path in paths] for split, paths in patterns.items()}
