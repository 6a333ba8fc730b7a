"""Object storage: jobs that see nothing but what they declare, as pods of Kubernetes do, make the same results.

The storage is moto's S3, on loopback. The executor (`tests/pods`) gives each job the command that a pod gets, in an
empty folder. With `PODS=all` the study has a curve whose levels are placed, and is made up to its report; otherwise it
is made up to its knees.
"""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pandas as pd
import pytest
from moto.server import ThreadedMotoServer

from essential_sparsity.provenance import workflow_commit
from essential_sparsity.side_files import PACKED

ALL = os.environ.get("PODS") == "all"
PODS = Path(__file__).parents[1] / "pods"
BUCKET, PREFIX = "bucket", "a/results/study"
TABLES = "results/studies/tiny/tables"
REPORT = "results/studies/tiny/report.html"
TARGETS = [] if ALL else [f"{TABLES}/knees.parquet", f"{TABLES}/costs.parquet"]
# What differs between any two runs.
SPENT = ["seconds", "peak_memory_mb"]


def shrink(config: dict[str, Any]) -> None:
    """Leave one level of a model that is pre-trained here, and levels that are placed of one that is read."""
    placed, one = config["curves"]
    adaptive = {"start": [0.6], "budget": 3, "per_round": 1}
    placed.update(methods=["magnitude-global"], sparsities={"adaptive": adaptive})
    one.update(methods=["magnitude-global"], sparsities=[0.5], seeds=[0])
    config.update(weights=[], curves=[placed, one] if ALL else [one])


@pytest.fixture(scope="module")
def storage() -> Iterator[str]:
    """Object storage with an empty bucket; yields its address."""
    # It writes a line a request.
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(port=0)
    server.start()
    _, port = server.get_host_and_port()
    yield f"http://127.0.0.1:{port}"
    server.stop()


@pytest.fixture(scope="module")
def bucket(storage: str) -> Any:
    client = boto3.resource(
        "s3", endpoint_url=storage, region_name="us-east-1", aws_access_key_id="key", aws_secret_access_key="secret"
    )
    return client.create_bucket(Bucket=BUCKET)


@pytest.fixture(scope="module")
def clone(make_clone: Callable[[Path], Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A clone with a study in it; git tracks, and so pods are sent, all but the texts that it reads."""
    made = make_clone(tmp_path_factory.mktemp("pods"))
    made.configure(shrink)
    for path in made.work.iterdir():
        shutil.move(path, made.workflow)
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    (made.workflow / ".gitignore").write_text("texts.csv\nllama\n")
    for command in (["init", "--quiet"], ["add", "--all"], [*who, "commit", "--quiet", "--message=all"]):
        subprocess.run(["git", *command], cwd=made.workflow, check=True)
    return type(made)(made.workflow, made.workflow)


@pytest.fixture(scope="module")
def run_in_pods(clone: Any, storage: str, bucket: Any) -> Iterator[Callable[..., str]]:
    """Run the study in pods, expect success, return what was printed."""
    settings = {
        "executor": "pods", "jobs": "2", "default-storage-provider": "s3",
        "default-storage-prefix": f"s3://{BUCKET}/{PREFIX}", "storage-s3-endpoint-url": storage,
        "storage-s3-region": "us-east-1", "max-status-checks-per-second": "20", "seconds-between-status-checks": "1",
    }  # fmt: skip
    arguments = [part for key, value in settings.items() for part in (f"--{key}", value)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(PODS))
        patch.setenv("SNAKEMAKE_STORAGE_S3_ACCESS_KEY", "key")
        patch.setenv("SNAKEMAKE_STORAGE_S3_SECRET_KEY", "secret")
        yield lambda *more: clone.run(*arguments, *more)


@pytest.fixture(scope="module")
def printed(run_in_pods: Callable[..., str]) -> str:
    """What the run printed."""
    return run_in_pods(*TARGETS)


def stored(bucket: Any, folder: Path) -> Path:
    """Bring all results from the storage to a folder."""
    for entry in bucket.objects.filter(Prefix=f"{PREFIX}/results/"):
        target = folder / entry.key.removeprefix(f"{PREFIX}/")
        target.parent.mkdir(parents=True, exist_ok=True)
        bucket.download_file(entry.key, str(target))
    return folder


def test_pods_make_the_same_results_as_this_machine(
    clone: Any, printed: str, bucket: Any, make_clone: Callable[[Path], Any], tmp_path: Path
) -> None:
    here = make_clone(tmp_path / "here")
    here.configure(shrink)
    here.run(*TARGETS)
    there = stored(bucket, tmp_path / "there")
    tables = sorted(path.name for path in (here.work / TABLES).glob("*.parquet"))
    assert tables == sorted(path.name for path in (there / TABLES).glob("*.parquet"))
    for name in set(tables) - {"costs.parquet"}:
        one, other = (pd.read_parquet(folder / TABLES / name) for folder in (here.work, there))
        if "workflow_commit" in one:
            assert set(other.pop("workflow_commit")) == {workflow_commit(clone.work)}
            one = one.drop(columns="workflow_commit")
        kept = [column for column in one if column not in SPENT]
        pd.testing.assert_frame_equal(one[kept], other[kept])
    # Nothing was written on this machine.
    assert not (clone.work / "results").exists()
    assert (there / REPORT).exists() == (f"Report: s3://{BUCKET}/{PREFIX}/{REPORT}" in printed) == ALL


def test_nothing_is_left_to_do(printed: str, run_in_pods: Callable[..., str]) -> None:
    assert "Nothing to be done" in run_in_pods("--dry-run", *TARGETS)


def test_side_files_are_packed_where_they_are_declared_alone(printed: str, bucket: Any, tmp_path: Path) -> None:
    packed = stored(bucket, tmp_path).rglob(PACKED)
    assert {path.relative_to(tmp_path / "results").parts[0] for path in packed} == {"pretraining", "checkpoints"}
