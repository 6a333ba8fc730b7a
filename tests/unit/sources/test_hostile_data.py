"""Data of strangers: nothing of them is run, and nothing leads out of its folder."""

from __future__ import annotations

import json
import os
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from essential_sparsity.data.images import decode_image
from essential_sparsity.data.tables import read_table
from essential_sparsity.errors import UserError
from essential_sparsity.evaluation.benchmark_files import split_files
from essential_sparsity.sources.hub import is_below

WHERE = "study.yaml, entry"


def refused(action: Callable[[], object], *says: str) -> None:
    with pytest.raises(UserError) as caught:
        action()
    message = str(caught.value)
    assert "To mend: " in message
    for text in says:
        assert text in message


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_in_a_tar_are_not_followed(tmp_path: Path, kind: bytes) -> None:
    path = tmp_path / "t.csv.tar"
    with tarfile.open(path, "w") as file:
        entry = tarfile.TarInfo("../../evil.csv")
        entry.type, entry.linkname = kind, "/etc/passwd"
        file.addfile(entry)
    refused(lambda: read_table(path, "csv", WHERE), "file t.csv.tar", "cannot be read as csv")
    assert [p.name for p in tmp_path.iterdir()] == ["t.csv.tar"]


def test_a_name_in_an_archive_leads_nowhere(tmp_path: Path) -> None:
    path = tmp_path / "deep.csv.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("../../../../evil.csv", "text\nhello\n")
    assert read_table(path, "csv", WHERE)["text"].tolist() == ["hello"]
    assert [p.name for p in tmp_path.iterdir()] == ["deep.csv.zip"]


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


def test_no_program_is_started_for_an_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The program that Pillow starts for such drawings, whether or not this machine has it.
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch '{tmp_path}/started'\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)
    drawing = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n"
    refused(lambda: decode_image(drawing, WHERE), "cannot be decoded", "PNG, JPEG")
    assert not (tmp_path / "started").exists()
