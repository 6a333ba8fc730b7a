"""Wheels, checkpoints and data of strangers: nothing of them is run, and nothing lies or grows beyond what it is."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import os
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from essential_sparsity import unpacking
from essential_sparsity.benchmark_files import split_files
from essential_sparsity.checkpoints import extract
from essential_sparsity.dataset_rows import join_documents
from essential_sparsity.dataset_tables import read_table
from essential_sparsity.errors import UserError
from essential_sparsity.gguf_header import check_gguf
from essential_sparsity.hub import is_below
from essential_sparsity.images import decode_image
from essential_sparsity.sources import unpack_member
from essential_sparsity.weights import file_tensors

WHERE = "study.yaml, entry"


def refused(action: Callable[[], object], *says: str) -> None:
    with pytest.raises(UserError) as caught:
        action()
    message = str(caught.value)
    assert "To mend: " in message
    for text in says:
        assert text in message


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a megabyte be what may come out of any file, so that a test need not unpack more."""
    monkeypatch.setattr(unpacking, "ALWAYS", 1 << 20)


# --- archives ---


def archive(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


def test_a_small_wheel_does_not_fill_the_disk(tmp_path: Path, small: None) -> None:
    wheel = archive(tmp_path / "w.whl", {"m/a.bin": bytes(4 << 20)})
    refused(lambda: unpack_member(wheel, "m/a.bin", tmp_path / "out", WHERE), "4,194,304 bytes", "do not trust")
    parts = archive(tmp_path / "v.whl", {f"m/{i}.bin": bytes(1 << 19) for i in range(4)})
    refused(lambda: unpack_member(parts, "m/", tmp_path / "out", WHERE), "2,097,152 bytes", f"{WHERE}.member")
    assert not (tmp_path / "out").exists()
    unpack_member(parts, "m/0.bin", tmp_path / "out", WHERE)
    assert (tmp_path / "out" / "0.bin").stat().st_size == 1 << 19


def test_a_wheel_that_lies_about_its_sizes_gives_no_more_than_it_says(tmp_path: Path) -> None:
    wheel = archive(tmp_path / "w.whl", {"m/a.bin": bytes(1 << 20)})
    # The size in the directory at the end, by which the archive is read.
    content = wheel.read_bytes()
    at = content.rindex(b"PK\x01\x02") + 24
    wheel.write_bytes(content[:at] + struct.pack("<I", 10) + content[at + 4 :])
    refused(lambda: unpack_member(wheel, "m/a.bin", tmp_path / "out", WHERE), "an unreadable archive")
    assert not list((tmp_path / "out").iterdir())


def test_a_link_in_a_wheel_is_a_file_with_a_path_in_it(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("m/link.csv")
    link.create_system, link.external_attr = 3, 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "w.whl", "w") as file:
        file.writestr(link, "/etc/passwd")
    unpack_member(tmp_path / "w.whl", "m/link.csv", tmp_path / "out", WHERE)
    assert not (tmp_path / "out" / "link.csv").is_symlink()
    assert (tmp_path / "out" / "link.csv").read_text() == "/etc/passwd"


@pytest.mark.parametrize("suffix", ["gz", "bz2", "zip", "tar.gz"])
def test_a_small_table_does_not_fill_the_memory(tmp_path: Path, small: None, suffix: str) -> None:
    path, text = tmp_path / f"t.csv.{suffix}", b"text\n" + b"a\n" * (1 << 21)
    if suffix == "zip":
        archive(path, {"t.csv": text})
    elif suffix == "tar.gz":
        with tarfile.open(path, "w:gz") as file:
            entry = tarfile.TarInfo("t.csv")
            entry.size = len(text)
            file.addfile(entry, io.BytesIO(text))
    else:
        path.write_bytes({"gz": gzip.compress, "bz2": bz2.compress}[suffix](text))
    refused(lambda: read_table(path, "csv", WHERE), f"file {path.name}", "bytes that come out of a file of")


def test_a_parquet_file_that_repeats_a_value_is_counted_in_full(tmp_path: Path, small: None) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"a": pa.nulls(1 << 20), "b": pa.nulls(1 << 20)}), path)
    assert path.stat().st_size < 4096
    refused(lambda: read_table(path, "parquet", WHERE), "file t.parquet", "bytes that come out of a file of")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_in_a_tar_are_not_followed(tmp_path: Path, kind: bytes) -> None:
    path = tmp_path / "t.csv.tar"
    with tarfile.open(path, "w") as file:
        entry = tarfile.TarInfo("../../evil.csv")
        entry.type, entry.linkname = kind, "/etc/passwd"
        file.addfile(entry)
    refused(lambda: read_table(path, "csv", WHERE), "file t.csv.tar", "one plain file")
    assert [p.name for p in tmp_path.iterdir()] == ["t.csv.tar"]


def test_a_name_in_an_archive_leads_nowhere(tmp_path: Path) -> None:
    path = archive(tmp_path / "deep.csv.zip", {"../../../../evil.csv": b"text\nhello\n"})
    assert read_table(path, "csv", WHERE)["text"].tolist() == ["hello"]
    assert [p.name for p in tmp_path.iterdir()] == ["deep.csv.zip"]


# --- checkpoints ---


class Trap:
    """A pickle that leaves a marker when it is loaded."""

    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self) -> tuple[Any, tuple[str, str]]:
        return open, (self.marker, "w")


def pickled(folder: Path, state: Any) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text('{"model_type": "bert"}')
    torch.save(state, folder / "pytorch_model.bin")
    return folder


@pytest.mark.parametrize("place", ["value", "key", "nested"])
def test_code_in_a_pickle_is_not_run(tmp_path: Path, place: str) -> None:
    marker = tmp_path / "marker"
    trap = Trap(marker)
    state = {"value": {"w": trap}, "key": {trap: torch.ones(2)}, "nested": {"w": torch.ones(2), "m": {"a": [trap]}}}
    folder = pickled(tmp_path / "in", state[place])
    refused(
        lambda: extract(folder, tmp_path / "out", "float32", WHERE), "pytorch_model.bin", "a pickle of tensors only"
    )
    assert not marker.exists()
    pickle.loads(pickle.dumps(trap)).close()
    assert marker.exists(), "the trap works"


@pytest.mark.parametrize(
    ("state", "says"),
    [
        ({"w": torch.ones(1).expand(10**6, 10**6)}, "tensors of 4,000,000,000,000 bytes"),
        ({f"w{i}": torch.ones(64, 64).expand(64, 64, 64)[i:] for i in range(8)}, "bytes in a file of"),
        ({"w": torch.ones(2).to_sparse()}, "not a plain tensor"),
        ({"w": torch.empty(10**9, device="meta")}, "not a plain tensor"),
        ({"w": torch.ones(2, dtype=torch.complex128)}, "not a plain tensor"),
        ({1: torch.ones(2)}, "not a plain tensor"),
    ],
)
def test_a_pickle_that_claims_to_be_more_than_it_is(tmp_path: Path, state: Any, says: str) -> None:
    folder = pickled(tmp_path / "in", state)
    refused(lambda: extract(folder, tmp_path / "out", "float32", WHERE), "pytorch_model.bin", says)
    assert not (tmp_path / "out" / "model.safetensors").exists()


def header(**tensors: dict[str, Any]) -> bytes:
    return json.dumps(tensors).encode()


def entry(shape: list[Any], begin: Any, end: Any) -> dict[str, Any]:
    return {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    "text",
    [
        header(a=entry([2], 0, 8), b=entry([2], 0, 8)),
        header(a=entry([2], 0, 8), b=entry([1], 4, 8)),
        header(a=entry([1], 4, 8)),
        header(a=entry([-1, -2], 0, 8)),
        header(a=entry([10**30], 0, 4 * 10**30)),
        header(a=entry([2], -8, 0), b=entry([2], 0, 8)),
        header(a=entry([True, 2], 0, 8)),
        header(a=entry([2.0], 0, 8)),
        header(a={"dtype": "F32", "shape": [2], "data_offsets": [0]}),
        b"[" * 100_000,
        b'{"a": 1}',
        b"[]",
    ],
    ids=str,
)
def test_a_header_that_lies_is_refused(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(8))
    refused(lambda: file_tensors(path), str(path))
    whole = header(a=entry([2], 0, 8))
    path.write_bytes(struct.pack("<Q", len(whole)) + whole + bytes(8))
    assert file_tensors(path)["a"].shape == (2,)


def test_more_layers_than_there_are_weights_of_are_refused(tmp_path: Path) -> None:
    folder = pickled(tmp_path / "in", {"w": torch.ones(2)})
    (folder / "config.json").write_text('{"model_type": "bert", "text_config": {"num_hidden_layers": 1000000000}}')
    refused(
        lambda: extract(folder, tmp_path / "out", "float32", WHERE),
        "file config.json, key text_config, key num_hidden_layers", "1,000,000,000 layers, with 1 tensors",
    )  # fmt: skip


def gguf(*values: bytes, tensors: int = 0) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, len(values)) + b"".join(values)


def key(name: str, kind: int, content: bytes) -> bytes:
    return struct.pack("<Q", len(name)) + name.encode() + struct.pack("<I", kind) + content


@pytest.mark.parametrize(
    "content",
    [
        gguf(key("a", 9, struct.pack("<IQ", 4, 2**40))),
        gguf(key("a", 9, struct.pack("<IQ", 8, 2**40))),
        gguf(key("a", 8, struct.pack("<Q", 2**62))),
        gguf(key("llama.block_count", 4, struct.pack("<I", 10**9))),
        gguf(tensors=2**60),
        b"GGUF" + struct.pack("<IQQ", 3, 0, 2**60),
        b"not one",
    ],
)
def test_a_gguf_header_that_lies_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "m.gguf"
    path.write_bytes(content)
    refused(lambda: extract(tmp_path / "in", tmp_path / "out", "float32", WHERE), "file m.gguf")
    path.write_bytes(gguf(key("a", 9, struct.pack("<IQII", 4, 2, 1, 2)), key("b", 8, struct.pack("<Q", 1) + b"x")))
    check_gguf(path)


# --- data ---


@pytest.mark.parametrize("pattern", ["../../*.csv", "/etc/*.csv", "data/../../*.csv"])
def test_a_readme_does_not_lead_out_of_its_folder(tmp_path: Path, pattern: str) -> None:
    (tmp_path / "secret.csv").write_text("a\n1\n")
    folder = tmp_path / "a" / "data"
    folder.mkdir(parents=True)
    card = {"configs": [{"config_name": "default", "data_files": [{"split": "test", "path": pattern}]}]}
    (folder / "README.md").write_text(f"---\n{json.dumps(card)}\n---\n")
    refused(lambda: split_files(folder, None, "test", WHERE), "README.md, configs", f"'{pattern}'", "do not trust")


@pytest.mark.parametrize("path", ["../x", "a/../../x", "/x", "a//x", "", "a/./x", "..\\x", "C:/x", "a\0"])
def test_files_of_a_repository_lie_in_it(path: str) -> None:
    assert not is_below(path)
    assert is_below("data/train-0.parquet")


def test_a_pattern_that_never_ends_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("essential_sparsity.dataset_rows._PATTERN_SECONDS", 0.2)
    rows = pd.DataFrame({"split": "train", "text": ["= a =", "b", "a" * 60 + "!"]})
    refused(lambda: join_documents(rows, "(a|aa)+", WHERE), f"{WHERE}.documents", "takes longer than", "(a|aa)+")
    assert len(join_documents(rows, "= [^=].*[^=] =|= a =", WHERE)) == 1


def test_no_program_is_started_for_an_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The program that Pillow starts for such drawings, whether or not this machine has it.
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch '{tmp_path}/started'\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)
    drawing = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n"
    refused(lambda: decode_image(drawing, WHERE), "cannot be decoded", "PNG, JPEG")
    assert not (tmp_path / "started").exists()
