"""The paper-scale studies end to end, on stand-ins of the paper's models and tasks from a hub."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import Any

import pandas as pd
import pytest

import small_studies
import standins
import tiny
from essential_sparsity.study import Study
from hub_server import Hub, serving

STUDIES = small_studies.small_studies()


@pytest.fixture(scope="module")
def paper(make_clone: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, dict[str, set[str]]]]:
    """All studies, run one after the other in one folder, and the messages of the jobs of each."""
    with serving() as hub, pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("paper")
        clone = make_clone(folder)
        small_studies.shrink_registries(clone.workflow / "config", STUDIES.values())
        resolved = [Study(small_studies._filled(config), clone.workflow, "study.yaml") for config in STUDIES.values()]
        standins.publish_data(hub)
        standins.publish_models(hub, resolved, folder / "models")
        patch.setenv("HF_ENDPOINT", hub.endpoint)
        patch.setenv("HF_HOME", str(folder / "home"))
        jobs = {}
        for name, config in STUDIES.items():
            tiny.write_study(config, clone.study_file)
            start = time.monotonic()
            jobs[name] = clone.executed("--keep-going")
            print(name, len(jobs[name]), f"{time.monotonic() - start:.1f} s", flush=True)
        yield clone, jobs


def test_reports(paper: Any) -> None:
    assert paper
