"""The same study gives the same tables, to the last bit, whatever folder, number of cores and kind of process."""

from __future__ import annotations

from typing import Any

import yaml

from same_tables import compare, tables
from tiny import write_study

TABLES = "results/studies/tiny/tables"


def test_another_folder_other_cores_and_cold_starts_give_the_same_tables(finished: Any, fresh: Any) -> None:
    # The finished study ran on two cores, its jobs but the first ones in processes of the server.
    work = fresh.work.rename(fresh.work.with_name("another folder"))
    write_study(yaml.safe_load(finished.study_file.read_text()), work / "study.yaml")
    fresh.work = work
    client = fresh.workflow / "workflow" / "starter" / "client.py"
    text = client.read_text()
    assert "FIRST_JOBS = 3\n" in text
    # Preparation and training start in processes of their own this time.
    client.write_text(text.replace("FIRST_JOBS = 3\n", "FIRST_JOBS = 9\n"))
    names = sorted(path.name for path in (finished.work / TABLES).glob("*.parquet") if path.stem != "costs")
    fresh.run("--cores", "1", *(f"{TABLES}/{name}" for name in names))
    assert len(tables(work / "results")) == len(names) >= 11
    assert compare(finished.work / "results", work / "results") == []
    for part in ("masks/tiny-bert/step000012/random-global/1/0.900.safetensors", "pretraining/tiny-bert/index.json"):
        assert (finished.work / "results" / part).read_bytes() == (work / "results" / part).read_bytes()
