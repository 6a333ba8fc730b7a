"""The same study gives the same tables, to the last bit, whatever folder, number of cores and kind of process."""

from __future__ import annotations

from typing import Any

import yaml

from same_tables import compare, tables
from tiny import write_study

TABLES = "results/studies/tiny/tables"


def test_another_folder_other_cores_and_cold_starts_give_the_same_tables(finished: Any, fresh: Any) -> None:
    # The finished study ran on two cores, its jobs in forks of the warm process.
    work = fresh.work.rename(fresh.work.with_name("another folder"))
    write_study(yaml.safe_load(finished.study_file.read_text()), work / "study.yaml")
    fresh.work = work
    fresh.edit("../rules/start.smk", "    seam.start_jobs_warm()\n", "    pass\n")
    names = sorted(path.name for path in (finished.work / TABLES).glob("*.parquet") if path.stem != "costs")
    fresh.run("--cores", "1", *(f"{TABLES}/{name}" for name in names))
    assert len(tables(work / "results")) == len(names) >= 11
    assert compare(finished.work / "results", work / "results") == []
    for part in ("masks/tiny-bert/step000012/random-global/1/0.900.safetensors", "pretraining/tiny-bert/index.json"):
        assert (finished.work / "results" / part).read_bytes() == (work / "results" / part).read_bytes()
