"""The hub: only the files that are needed, whole and as the hub names them, or a message that says what to do."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

import entries
import families
from essential_sparsity.checkpoints.files import CONFIG
from essential_sparsity.checkpoints.steps import Place, Trajectory, hub_steps
from essential_sparsity.errors import UserError
from essential_sparsity.files import read_json, sha256_of
from essential_sparsity.records import record
from essential_sparsity.sources.fetch import describe, fetch, table_splits
from essential_sparsity.sources.hub import download, find_steps
from hub_server import SIGNATURE, Hub, blob_id, serving

ROOT = Path(__file__).resolve().parents[3]
WHERE = "config/models.yaml, m.source"
NAME = "org/tiny"
WEIGHTS = bytes(range(256)) * 40
SMALL = {"config.json": b'{"model_type": "bert"}', "tokenizer.json": b"{}", "vocab.txt": b"a\nb\n"}
SINGLE = {**SMALL, "model.safetensors": WEIGHTS}
# What a repository holds besides, and nobody needs.
MORE = {
    "README.md": b"# A model", ".gitattributes": b"", "pytorch_model.bin": b"pickle", "tf_model.h5": b"h5",
    "onnx/model.safetensors": b"onnx", "modeling.py": b"raise SystemExit", "training_args.bin": b"pickle",
}  # fmt: skip


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub, and huggingface_hub with its address and an empty cache, as if the environment had named them."""
    with serving() as server:
        point_at(monkeypatch, server.endpoint)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no token"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        # What is kept of a connection that drops is counted in these: 10 MB, more than a test should send.
        monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 100)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        # Retries are counted, not waited for.
        monkeypatch.setattr(time, "sleep", lambda seconds: None)
        yield server


def point_at(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}")


def of_hub(**values: Any) -> Any:
    """Return a source of the hub."""
    return entries.source("hub", **{"repository": NAME, "revision": "main", **values})


def steps_of(**values: Any) -> dict[str, Place]:
    """Return the steps of a trajectory."""
    given = {"repository": NAME, "revision": "step{step}", "steps": [1, 2], **values}
    return hub_steps(record(Trajectory, given), WHERE)


def get(folder: Path, trusted: bool = False, **source: Any) -> Path:
    """Download and return the folder of the files."""
    download(of_hub(**source), trusted, folder, WHERE)
    return folder / "files"


def made(folder: Path) -> list[Path]:
    """Return what the download's rule declares."""
    return [folder / "index.json", folder / "files"]


def fault(folder: Path, **source: Any) -> UserError:
    with pytest.raises(UserError) as caught:
        get(folder, **source)
    assert not (folder / "index.json").exists()
    return caught.value


def names(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_only_the_files_that_are_needed_are_fetched(hub: Hub, tmp_path: Path) -> None:
    commit = hub.add(NAME, {**SINGLE, **MORE})
    files = get(tmp_path / "out")
    assert names(files) == set(SINGLE)
    assert sorted(hub.fetched()) == sorted(SINGLE)
    assert (files / "model.safetensors").read_bytes() == WEIGHTS
    index = read_json(tmp_path / "out" / "index.json")
    assert (index["repository"], index["revision"], index["commit"]) == (NAME, "main", commit)
    assert {name: entry["sha256"] for name, entry in index["files"].items()} == {
        name: sha256_of(files / name) for name in SINGLE
    }


def test_shards_are_those_that_the_index_lists(hub: Hub, tmp_path: Path) -> None:
    shards = [f"model-{i:05d}-of-00002.safetensors" for i in (1, 2)]
    index = {"weight_map": {"a": shards[0], "b": shards[1], "c": shards[0]}}
    sharded = {**SMALL, "model.safetensors.index.json": json.dumps(index).encode(), **dict.fromkeys(shards, b"part")}
    hub.add(NAME, {**sharded, "model-00003-of-00003.safetensors": b"of another set", "pytorch_model.bin": b"pickle"})
    assert names(get(tmp_path / "out")) == set(sharded)


def test_a_shard_that_is_not_there_is_named(hub: Hub, tmp_path: Path) -> None:
    hub.add(NAME, {**SMALL, "pytorch_model.bin.index.json": b'{"weight_map": {"a": "pytorch_model-1.bin"}}'})
    assert "no shard 'pytorch_model-1.bin' beside it, which holds a" in fault(tmp_path / "out").found


def test_a_pickle_is_taken_where_there_is_no_safetensors(hub: Hub, tmp_path: Path) -> None:
    hub.add(NAME, {**SMALL, "pytorch_model.bin": WEIGHTS, "training_args.bin": b"pickle"})
    assert names(get(tmp_path / "out")) == {*SMALL, "pytorch_model.bin"}


def test_no_weights_that_can_be_read(hub: Hub, tmp_path: Path) -> None:
    hub.add(NAME, {**SMALL, "tf_model.h5": b"h5"})
    error = fault(tmp_path / "out")
    assert "no weights that can be read" in error.found
    assert "'tf_model.h5'" in error.found
    assert "'model.safetensors'" in error.expected
    assert "tf_model.h5" not in hub.fetched()


def test_a_path_that_leads_elsewhere_is_refused(hub: Hub, tmp_path: Path) -> None:
    hub.add(NAME, {**SINGLE, "../x": b"x"})
    assert "'../x' in the list of files" in fault(tmp_path / "out").found


def test_a_revision_is_resolved_to_its_commit(hub: Hub, tmp_path: Path) -> None:
    old = hub.add(NAME, {**SINGLE, "vocab.txt": b"old"}, "v1.0")
    new = hub.add(NAME, SINGLE)
    assert (get(tmp_path / "old", revision="v1.0") / "vocab.txt").read_bytes() == b"old"
    assert read_json(tmp_path / "old" / "index.json")["commit"] == old
    get(tmp_path / "new")
    assert read_json(tmp_path / "new" / "index.json")["commit"] == new
    assert (get(tmp_path / "by commit", revision=old) / "vocab.txt").read_bytes() == b"old"


def test_what_is_in_the_cache_is_not_fetched_again(hub: Hub, tmp_path: Path) -> None:
    hub.add(NAME, SINGLE)
    first = get(tmp_path / "one")
    before = len(hub.fetched())
    second = get(tmp_path / "two")
    assert names(second) == names(first)
    assert len(hub.fetched()) == before


def test_files_hold_when_the_cache_is_cleared_and_take_no_room_twice(hub: Hub, tmp_path: Path) -> None:
    hub.add(NAME, SINGLE)
    file = get(tmp_path / "out") / "model.safetensors"
    blob = tmp_path / "cache" / "models--org--tiny" / "blobs" / sha256_of(file)
    assert file.samefile(blob)
    blob.unlink()
    assert file.read_bytes() == WEIGHTS


def test_a_dropped_connection_is_taken_up_where_it_broke(
    hub: Hub, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hub.add(NAME, SINGLE)
    hub.broken_after["model.safetensors"] = [1000, 500]
    assert (get(tmp_path / "out") / "model.safetensors").read_bytes() == WEIGHTS
    assert hub.ranges() == ["bytes=1000-", "bytes=1500-"]
    assert "Trying to resume" in caplog.text
    assert SIGNATURE not in caplog.text


def test_after_a_connection_dropped_for_good_the_next_run_keeps_what_was_whole(hub: Hub, tmp_path: Path) -> None:
    hub.add(NAME, SINGLE)
    hub.broken_after["model.safetensors"] = [3000, *[0] * 20]
    error = fault(tmp_path / "out")
    assert "the connection to" in error.found
    assert "run the same command again" in error.mend
    hub.broken_after.clear()
    hub.requests.clear()
    assert (get(tmp_path / "out") / "model.safetensors").read_bytes() == WEIGHTS
    assert hub.fetched().count("model.safetensors") == 1
    assert CONFIG not in hub.fetched()


@pytest.mark.parametrize(("file", "digest"), [("model.safetensors", sha256), ("vocab.txt", blob_id)])
def test_wrong_bytes_are_refused_and_leave_nothing(
    hub: Hub, tmp_path: Path, file: str, digest: Callable[[bytes], str]
) -> None:
    hub.add(NAME, SINGLE)
    wrong = b"z" * len(SINGLE[file])
    hub.served_instead[file] = wrong
    error = fault(tmp_path / "out")
    assert file in error.found
    assert digest(wrong) in error.found
    assert error.expected == digest(SINGLE[file])
    assert wrong not in [p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()]
    hub.served_instead.clear()
    assert (get(tmp_path / "out") / file).read_bytes() == SINGLE[file]


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_a_damaged_file_of_the_cache_is_fetched_again(hub: Hub, tmp_path: Path, file: str) -> None:
    hub.add(NAME, SINGLE)
    blob = (get(tmp_path / "one") / file).resolve()
    (blob,) = [p for p in (tmp_path / "cache").rglob("blobs/*") if p.samefile(blob)]
    blob.unlink()
    blob.write_bytes(b"damaged")
    assert (get(tmp_path / "two") / file).read_bytes() == SINGLE[file]


def offline(monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """Take the network away: by the environment's switch, or by a hub that does not answer."""
    if how == "switch":
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    else:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            point_at(monkeypatch, f"http://127.0.0.1:{free.getsockname()[1]}")


@pytest.mark.parametrize("how", ["switch", "no answer"])
@pytest.mark.parametrize("trees", [True, False])
def test_without_a_network_the_cache_serves(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, how: str, trees: bool
) -> None:
    commit = hub.add(NAME, {**SINGLE, **MORE})
    get(tmp_path / "one")
    if not trees:
        # As other tools leave the cache, which fetch file by file.
        for listing in (tmp_path / "cache").rglob("trees/*.json"):
            listing.unlink()
        from huggingface_hub import _tree_cache

        _tree_cache._IN_MEMORY_TREE_CACHE.clear()
    hub.requests.clear()
    offline(monkeypatch, how)
    assert "unchecked" not in caplog.text
    assert names(get(tmp_path / "two")) == set(SINGLE)
    assert "files of org/tiny are taken from the cache unchecked" in caplog.text
    assert read_json(tmp_path / "two" / "index.json") == read_json(tmp_path / "one" / "index.json")
    assert read_json(tmp_path / "two" / "index.json")["commit"] == commit
    assert not hub.requests


@pytest.mark.parametrize("half", [False, True])
def test_offline_and_not_in_the_cache(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, half: bool) -> None:
    hub.add(NAME, SINGLE)
    if half:
        hub.broken_after["model.safetensors"] = [0] * 20
        fault(tmp_path / "out")
    offline(monkeypatch, "switch")
    error = fault(tmp_path / "out")
    assert "HF_HUB_OFFLINE" in error.found
    assert "'org/tiny' at main is not, or not whole, in the hub's cache" in error.found
    assert "HF_HOME" in error.mend


def test_no_answer_and_nothing_in_the_cache(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offline(monkeypatch, "no answer")
    error = fault(tmp_path / "out")
    assert f"the connection to {constants.ENDPOINT} failed" in error.found
    assert "HF_ENDPOINT" in error.mend
    assert "kind: path" in error.mend


def test_a_cache_that_cannot_be_written_is_named(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add(NAME, SINGLE)

    def full(*arguments: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("huggingface_hub.file_download.http_get", full)
    error = fault(tmp_path / "out")
    assert "No space left on device" in error.found
    assert "HF_HOME" in error.mend


def test_a_missing_repository_and_a_missing_revision_are_named(hub: Hub, tmp_path: Path) -> None:
    hub.add(NAME, SINGLE)
    error = fault(tmp_path / "out", repository="org/tyni")
    assert error.where == f"{WHERE}.repository"
    assert error.found == "'org/tyni', but the hub has no such repository"
    error = fault(tmp_path / "out", revision="v2")
    assert error.where == f"{WHERE}.revision"
    assert "'v2', which 'org/tiny' does not have" in error.found


@pytest.mark.parametrize(
    ("closed", "says", "mend"),
    [
        ("private", "it is private", "for a private repository, set HF_TOKEN, or run `hf auth login`"),
        ("gated", "gated", "/org/tiny, then set HF_TOKEN, or run `hf auth login`"),
    ],
)
def test_a_closed_repository_asks_for_a_token(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, closed: str, says: str, mend: str
) -> None:
    hub.add(NAME, SINGLE)
    getattr(hub, closed).add(NAME)
    error = fault(tmp_path / "out")
    assert says in error.found
    assert mend in error.mend
    monkeypatch.setenv("HF_TOKEN", hub.token)
    assert names(get(tmp_path / "out")) == set(SINGLE)


@pytest.mark.parametrize(("status", "says"), [(429, "Too Many"), (503, "the connection to"), (403, "your token")])
def test_a_hub_that_refuses(hub: Hub, tmp_path: Path, status: int, says: str) -> None:
    hub.add(NAME, SINGLE)
    hub.refused = status
    error = fault(tmp_path / "out")
    assert says in error.found
    assert NAME in error.found
    hub.refused = 0
    assert names(get(tmp_path / "out")) == set(SINGLE)


def test_the_signature_of_an_address_is_not_shown(hub: Hub, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    hub.add(NAME, SINGLE)
    hub.storage_refused = 503
    with caplog.at_level(logging.INFO):
        error = fault(tmp_path / "out")
    assert "503" in error.found
    assert hub.storage in error.found
    assert SIGNATURE not in str(error) + caplog.text


def test_a_token_goes_to_the_hub_alone_and_is_written_nowhere(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    hub.add(NAME, SINGLE)
    hub.gated.add(NAME)
    monkeypatch.setenv("HF_TOKEN", hub.token)
    with caplog.at_level(logging.INFO):
        get(tmp_path / "out")
        hub.refused = 401
        with pytest.raises(UserError) as caught:
            get(tmp_path / "again", revision="v2")
    tokens = {r.path.split("/")[1]: r.token for r in hub.requests}
    assert tokens["storage"] == ""
    assert tokens["org"] == f"Bearer {hub.token}"
    text = caplog.text + str(caught.value) + "".join(p.read_text("latin-1") for p in tmp_path.rglob("*") if p.is_file())
    assert hub.token not in text
    assert SIGNATURE not in text


def test_a_model_that_needs_code_of_its_own_is_refused_before_its_weights(hub: Hub, tmp_path: Path) -> None:
    config = {"model_type": "unheard-of", "auto_map": {"AutoModel": "modeling.Own"}}
    hub.add(NAME, {**SINGLE, **MORE, "config.json": json.dumps(config).encode()})
    error = fault(tmp_path / "out")
    assert "'unheard-of'" in error.found
    assert "`trust_remote_code: true`" in error.mend
    assert "model.safetensors" not in hub.fetched()
    assert "modeling.py" not in hub.fetched()
    assert "modeling.py" in names(get(tmp_path / "out", trusted=True))


def test_a_model_is_read_by_the_next_stage(hub: Hub, tmp_path: Path) -> None:
    commit = hub.add_folder(NAME, families.save("llama", tmp_path / "model", shard="10KB"))
    get(tmp_path / "out")
    index = tmp_path / "out" / "index.json"
    source = of_hub()
    fetch(source, [index, index.parent / "files"], tmp_path / "source", WHERE)
    before, after = (families.stored_tensors(tmp_path / name) for name in ("model", "source"))
    assert before.keys() == after.keys()
    assert all(bool((before[name] == after[name]).all()) for name in before)
    assert describe(source, [index]) == {"source": f"hub:{NAME}", "revision": commit, "sha256": sha256_of(index)}


def test_a_changed_download_is_not_used(hub: Hub, tmp_path: Path) -> None:
    hub.add(NAME, SINGLE)
    file = get(tmp_path / "out") / "model.safetensors"
    file.unlink()
    file.write_bytes(b"changed")
    with pytest.raises(UserError, match=r"model\.safetensors.*delete .*index\.json and run again"):
        fetch(of_hub(), made(tmp_path / "out"), tmp_path / "source", WHERE)


TABLES = {
    "README.md": b"# Data", "sst2/train-0.parquet": b"t0", "sst2/train-1.parquet": b"t1", "sst2/test-0.parquet": b"e",
    "cola/train-0.parquet": b"other",
}  # fmt: skip


def test_the_tables_of_a_dataset_come_by_their_split(hub: Hub, tmp_path: Path) -> None:
    hub.add(NAME, TABLES, kind="datasets")
    files = {"train": ["sst2/train-*.parquet"], "test": ["sst2/test-0.parquet"]}
    get(tmp_path / "out", files=files)
    assert sorted(hub.fetched()) == ["sst2/test-0.parquet", "sst2/train-0.parquet", "sst2/train-1.parquet"]
    splits = table_splits(of_hub(), made(tmp_path / "out"), tmp_path / "tables", WHERE)
    assert {split: [p.read_bytes() for p in paths] for split, paths in splits.items()} == {
        "train": [b"t0", b"t1"], "test": [b"e"],
    }  # fmt: skip


def test_a_pattern_without_a_file_is_named(hub: Hub, tmp_path: Path) -> None:
    hub.add(NAME, TABLES, kind="datasets")
    error = fault(tmp_path / "out", files={"train": ["sst-2/train-*.parquet"]})
    assert error.where == f"{WHERE}.files.train"
    assert "'sst2/train-0.parquet'" in error.expected


def test_offline_a_dataset_with_a_part_missing_is_refused(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add(NAME, TABLES, kind="datasets")
    get(tmp_path / "out", files={"train": ["sst2/train-0.parquet"]})
    offline(monkeypatch, "switch")
    get(tmp_path / "again", files={"train": ["sst2/train-0.parquet"]})
    error = fault(tmp_path / "more", files={"train": ["sst2/train-*.parquet"]})
    assert "'org/tiny' at main is not, or not whole," in error.found


def test_steps_that_are_missing_are_named_and_the_others_found(hub: Hub) -> None:
    for step in (0, 2):
        hub.add(f"org/bert-step_{20 * step}k", {**SINGLE, "vocab.txt": b"%d" % step})
    steps = steps_of(repository="org/bert-step_{thousands}k", revision="main", steps=[0, 20000, 40000])
    found = find_steps(steps, WHERE)
    assert list(found["found"]) == ["step000000", "step040000"]
    assert found["found"]["step000000"] != found["found"]["step040000"]
    assert list(found["missing"]) == ["step020000"]
    assert "'org/bert-step_20k'" in found["missing"]["step020000"]


def test_revisions_that_are_missing_are_named(hub: Hub) -> None:
    commit = hub.add(NAME, SINGLE, "step1")
    found = find_steps(steps_of(), WHERE)
    assert found["found"] == {"step000001": commit}
    assert "'step2', which 'org/tiny' does not have" in found["missing"]["step000002"]


def test_offline_the_steps_of_the_cache_are_all_there_is(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = steps_of()
    hub.add(NAME, SINGLE, "step1")
    found = find_steps(steps, WHERE)
    hub.add(NAME, SINGLE, "step2")
    offline(monkeypatch, "switch")
    again = find_steps(steps, WHERE)
    assert again["found"] == found["found"]
    assert "HF_HUB_OFFLINE" in again["missing"]["step000002"]


def test_without_an_answer_no_step_is_taken_for_missing(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = steps_of()
    hub.add(NAME, SINGLE, "step1")
    find_steps(steps, WHERE)
    offline(monkeypatch, "no answer")
    with pytest.raises(UserError, match="the connection to"):
        find_steps(steps, WHERE)


@pytest.mark.parametrize("refused", [0, 429])
def test_no_step_at_all_is_a_fault(hub: Hub, refused: int) -> None:
    hub.refused = refused
    with pytest.raises(UserError, match="429" if refused else "no such repository"):
        find_steps(steps_of(), WHERE)


SHARED = Path(os.environ.get("SHARED_HUB", ROOT.parent / "shared" / "hub"))


@pytest.mark.skipif(not (SHARED / "datasets" / "nyu-mll" / "glue").is_dir(), reason="no real data in ../shared/hub")
def test_a_real_dataset_is_read(hub: Hub, tmp_path: Path) -> None:
    from essential_sparsity.data.rows import prepare_rows

    hub.add_folder("nyu-mll/glue", SHARED / "datasets" / "nyu-mll" / "glue", kind="datasets")
    files = {"train": ["cola/train-*.parquet"], "test": ["cola/validation-*.parquet"]}
    get(tmp_path / "out", repository="nyu-mll/glue", files=files)
    splits = table_splits(of_hub(), made(tmp_path / "out"), tmp_path / "tables", WHERE)
    classes = {"0": "unacceptable", "1": "acceptable"}
    entry = entries.dataset(format="parquet", text="sentence", label="label", classes=classes)
    rows = prepare_rows(splits, entry, WHERE)
    assert rows["split"].value_counts().to_dict() == {"train": 8551, "test": 1043}
    assert set(rows["label"]) == set(classes.values())
