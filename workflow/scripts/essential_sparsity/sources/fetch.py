"""Where bytes come from: a pinned wheel of the Python index, the model hub, a local path, or own pre-training.

Each kind of source has one function that puts the named bytes into a folder and one that says where they came from.
Nothing downstream knows which kind it was.
"""

from __future__ import annotations

import fnmatch
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from essential_sparsity.errors import UserError, quoted
from essential_sparsity.files import atomic_path, read_json, sha256_of
from essential_sparsity.sources.kinds import DataSource, Hub, Local, OwnStep, Source, Wheel


def platform_options(tags: str) -> list[str]:
    """Return the options by which pip chooses a wheel for another platform than that it runs on.

    Args:
        tags: The compatibility tags in the wheel's file name (PEP 425): Python, ABI and platform, joined by dashes;
            each may be several, joined by dots. Empty for a wheel that fits this platform.
    """
    if not tags:
        return []
    python, abi, platform = (part.split(".") for part in tags.split("-"))
    implementation, version = python[0][:2], python[0][2:]
    options = ["--implementation", implementation, "--python-version", version]
    options += [option for name in abi for option in ("--abi", name)]
    return options + [option for name in platform for option in ("--platform", name)]


def download_package(source: Wheel, wheel: Path, where: str) -> None:
    """Download one wheel with the user's own pip configuration, check its SHA-256, and place it at ``wheel``.

    Only a wheel is accepted (``--only-binary``), since building a source distribution runs its code. Dependencies are
    not fetched and nothing is installed. pip resumes a connection that drops; ``wheel`` appears complete or not at all.

    Args:
        source: Which wheel.
        wheel: Where to put it.
        where: The registry key that asked for it, for messages.

    Raises:
        UserError: No network, no such version, or another digest.
    """
    package, version, tags = source.package, source.version, source.tags or ""
    wheel.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=wheel.parent, prefix=".download-") as folder:
        command = [
            sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--progress-bar", "off",
            "--resume-retries", "5", "--disable-pip-version-check", "--no-input", "--dest", folder,
            *platform_options(tags), f"{package}=={version}",
        ]  # fmt: skip
        logging.info("running: pip download --no-deps --only-binary :all: %s==%s %s", package, version, tags)
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        logging.info("%s%s", result.stdout, result.stderr)
        if result.returncode != 0:
            raise _download_error(package, version, result.stderr, where)
        files = sorted(Path(folder).glob("*.whl"))
        if len(files) != 1:
            raise UserError(
                where=f"{where}.package",
                found=f"{len(files)} wheels after pip downloaded {package}=={version}",
                expected="exactly one wheel",
                mend="look at the files of that version on the index and choose a version that has a wheel",
            )
        found = sha256_of(files[0])
        if found != source.sha256:
            raise UserError(
                where=f"{where}.sha256",
                found=f"SHA-256 {found} for {files[0].name}",
                expected=source.sha256,
                mend="correct the digest if you chose another version on purpose; otherwise do not trust the file: "
                "find out which index pip used (`pip config list`)",
            )
        os.replace(files[0], wheel)


def _download_error(package: str, version: str, output: str, where: str) -> UserError:
    """Turn pip's output into a message that says whether the version or the network is missing."""
    versions = re.search(r"\(from versions: (.*?)\)", output)
    offline = re.search(r"(NewConnectionError|Connection\w*Error|ProxyError|SSLError|Max retries|Temporary failure"
                        r"|getaddrinfo|Network is unreachable|timed out|Connection refused)", output)  # fmt: skip
    if offline is None and versions is not None and versions[1] != "none":
        listed = versions[1].split(", ")
        shown = ", ".join(listed[-8:])
        return UserError(
            where=f"{where}.version",
            found=f"version {version} of {package}, which the package index does not have for this Python",
            expected=f"one of its versions (the newest: {shown})",
            mend="choose one of these versions and its SHA-256",
        )
    lines = [line.strip() for line in output.splitlines() if "ERROR" in line or "rror(" in line]
    printed = [line.strip() for line in output.splitlines() if line.strip()]
    reason = lines[-1].removeprefix("ERROR: ") if lines else (printed or ["no message from pip"])[-1]
    return UserError(
        where=f"{where}.package",
        found=f"that pip could not download {package}=={version} ({reason})",
        expected="a package index that answers and holds this version",
        mend="check the network, the name of the package, and pip's own settings (`pip config list`), then run the "
        "same command again: it goes on from here. Without a network, put the files in a folder and use "
        "`kind: path`",
    )


def unpack_member(wheel: Path, member: str, folder: Path, where: str) -> None:
    """Read one file, or the files in a folder whose name ends in ``/``, from a wheel into ``folder``, by their name.

    Raises:
        UserError: The archive is damaged or lacks the member.
    """
    try:
        archive = zipfile.ZipFile(wheel)
    except (zipfile.BadZipFile, OSError) as error:
        raise _unreadable_archive(wheel, error) from error
    with archive:
        names = [n for n in archive.namelist() if not n.endswith("/")]
        folders = member.endswith("/")
        chosen = [
            n for n in names if n == member or (folders and n.rpartition("/")[0].rstrip("/") == member.rstrip("/"))
        ]
        if not chosen:
            near = [n for n in names if PurePosixPath(n).suffix not in {".py", ".pyc", ""}][:10]
            raise UserError(
                where=f"{where}.member",
                found=f"'{member}', which {wheel.name} does not hold",
                expected=f"one of its files, such as {', '.join(near)}",
                mend="correct the member's path inside the wheel",
            )
        folder.mkdir(parents=True, exist_ok=True)
        for name in chosen:
            # Only the last part of the name is used, so that no archive can write outside the folder.
            place = folder / PurePosixPath(name).name
            try:
                # What is read is a member's bytes: a link is a file with a path in it.
                with archive.open(name) as source, atomic_path(place) as target, open(target, "wb") as file:
                    shutil.copyfileobj(source, file)
            except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
                raise _unreadable_archive(wheel, error) from error


def _unreadable_archive(wheel: Path, error: Exception) -> UserError:
    return UserError(
        where=str(wheel),
        found=f"an unreadable archive ({error})",
        expected="the wheel that was downloaded",
        mend="delete this file and run again: it will be downloaded afresh",
    )


def local_files(source: Local, where: str) -> list[Path]:
    """Return the file, or the files of the folder, that a local source names.

    Raises:
        UserError: There is nothing at that path.
    """
    path = source.place
    if not path.exists():
        raise UserError(
            where=f"{where}.path",
            found=f"'{path}', which does not exist (relative paths start at {Path.cwd()})",
            expected="a file or a folder",
            mend="correct the path, or put the files there",
        )
    return sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path]


def local_tables(source: Local, where: str) -> dict[str, list[Path]]:
    """Return the local files of a dataset, by their split; those of a source without ``files`` are ``train``.

    Raises:
        UserError: There is nothing at that path, or nothing that a pattern matches.
    """
    path = source.place
    if source.files is None:
        below = path.rglob("*") if path.is_dir() else local_files(source, where)
        return {"train": sorted(p for p in below if p.is_file() and not p.name.startswith("."))}
    if not path.is_dir():
        raise UserError(
            where=f"{where}.path",
            found=f"'{path}', which is not a folder",
            expected="the folder in which `files` are looked for",
            mend="correct the path, or name a single file and leave out `files`",
        )
    names = {p.relative_to(path).as_posix(): p for p in sorted(path.rglob("*")) if p.is_file()}
    splits: dict[str, list[Path]] = {}
    for split, patterns in source.files.items():
        for pattern in patterns:
            found = fnmatch.filter(names, pattern)
            if not found:
                raise UserError(
                    where=f"{where}.files.{split}",
                    found=f"'{pattern}', which no file below '{path}' matches",
                    expected=f"a pattern of its files, such as {quoted(list(names)[:10])}",
                    mend="correct the pattern",
                )
            splits.setdefault(split, []).extend(names[name] for name in found)
    return splits


def link_path(source: Local, folder: Path, where: str) -> None:
    """Link local files into ``folder`` after checking the digest, where one is given.

    Raises:
        UserError: The path does not exist, its SHA-256 is another, or a digest is given for a folder.
    """
    files = local_files(source, where)
    if source.sha256 and source.place.is_dir():
        raise UserError(
            where=f"{where}.sha256",
            found=f"a SHA-256 for the folder '{source.path}'",
            expected="a SHA-256 of a single file",
            mend="name the file, or leave out `sha256`",
        )
    if source.sha256 and (found := sha256_of(files[0])) != source.sha256:
        raise UserError(
            where=f"{where}.sha256",
            found=f"SHA-256 {found} for {files[0]}",
            expected=source.sha256,
            mend="correct the digest if the file is the one you mean; otherwise restore the file",
        )
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        (folder / file.name).symlink_to(file.resolve())


def link_pretrained(source: OwnStep, inputs: list[Path], folder: Path) -> None:
    """Link one step of the workflow's own pre-training, with its tokenizer and configuration, into ``folder``.

    ``inputs`` are the training's ``index.json`` and its folder.

    Raises:
        UserError: The step's file is missing, or not the one that the training wrote.
    """
    index, files = inputs
    weights = pretrained_weights(index, files, source.step)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.safetensors").symlink_to(weights.resolve())
    for name in read_json(index)["files"]:
        (folder / name).symlink_to((files / name).resolve())


def pretrained_weights(index: Path, files: Path, step: str) -> Path:
    """Return the file of one step of the workflow's own pre-training, after checking it.

    Args:
        index: The training's ``index.json``.
        files: The folder of what it lists.
        step: The step's name.

    Raises:
        UserError: The file is missing, or not the one that the training wrote.
    """
    entry = read_json(index)["steps"][step]
    weights = files / str(entry["file"])
    found = sha256_of(weights) if weights.is_file() else "no file"
    if found != entry["sha256"]:
        raise UserError(
            where=str(weights),
            found=found,
            expected=f"the weights of {step}, SHA-256 {entry['sha256']}",
            mend=f"delete {index} and run again: the model is trained anew",
        )
    return weights


def link_downloaded(inputs: list[Path], folder: Path) -> None:
    """Link the files of a repository of the hub, which an earlier rule downloaded, into ``folder``.

    ``inputs`` are the download's ``index.json`` and its folder; files keep their path in the repository.

    Raises:
        UserError: A file is missing, or not the one that was downloaded.
    """
    index = read_json(inputs[0])
    for name, entry in index["files"].items():
        file = inputs[1] / name
        found = sha256_of(file) if file.is_file() else "no file"
        if found != entry["sha256"]:
            raise UserError(
                where=str(file),
                found=found,
                expected=f"the file of {index['repository']}, SHA-256 {entry['sha256']}",
                mend=f"delete {inputs[0]} and run again: it is taken from the hub's cache, or downloaded afresh",
            )
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(file.resolve())


def fetch(source: Source, inputs: list[Path], folder: Path, where: str) -> None:
    """Put the bytes of a source into ``folder``.

    Args:
        source: Where they come from.
        inputs: What earlier rules made for it: the wheel, or the index and the folder of a training or of a download.
        folder: An empty folder to fill.
        where: The registry key, for messages.

    Raises:
        UserError: As the kind's own function says.
    """
    match source:
        case Wheel():
            unpack_member(inputs[0], source.member, folder, where)
        case Local():
            link_path(source, folder, where)
        case OwnStep():
            link_pretrained(source, inputs, folder)
        case Hub():
            link_downloaded(inputs, folder)


def table_splits(source: DataSource, inputs: list[Path], folder: Path, where: str) -> dict[str, list[Path]]:
    """Return the tables of a dataset, by their split; those of a wheel are put into ``folder``.

    Only a source with ``files`` says which split a file holds; the one table of another source is ``train``.

    Raises:
        UserError: Not one table where one is expected, or as :func:`fetch` says.
    """
    if isinstance(source, Local) and source.files is not None:
        return local_tables(source, where)
    fetch(source, inputs, folder, where)
    if isinstance(source, Hub):
        splits: dict[str, list[Path]] = {}
        for name, entry in sorted(read_json(inputs[0])["files"].items()):
            splits.setdefault(entry["split"], []).append(folder / name)
        return splits
    files = sorted(folder.iterdir())
    if len(files) != 1:
        raise UserError(
            where, f"{len(files)} files", "one table", "name a single file, or say by `files` which split each is of"
        )
    return {"train": files}


def describe(source: Source, inputs: list[Path]) -> dict[str, str | None]:
    """Return the ``source``, ``revision`` and ``sha256`` of a source's provenance.

    The revision is the version of a package, the commit of a repository of the hub, the digest of a local file, or the
    digest of a training's index; None for a local folder. Of a repository or a training the SHA-256 is the index's,
    which holds those of the files.
    """
    revision: str | None
    digest: str | None
    match source:
        case Wheel():
            place, revision, digest = f"{source.package}/{source.member}", source.version, source.sha256
        case Local():
            place = source.path
            revision = digest = sha256_of(source.place) if source.place.is_file() else None
        case Hub():
            index = read_json(inputs[0])
            place, revision, digest = index["repository"], index["commit"], sha256_of(inputs[0])
        case OwnStep():
            digest = sha256_of(inputs[0])
            place, revision = source.corpus, digest[:12]
    return {"source": f"{source.kind}:{place}", "revision": revision, "sha256": digest}
