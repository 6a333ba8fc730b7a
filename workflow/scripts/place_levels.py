"""Place the levels of the next round of a curve."""

import json
import logging
from typing import Any

import pandas as pd

from essential_sparsity.evaluation.tables import EVALUATIONS
from essential_sparsity.files import read_json, write_json
from essential_sparsity.knees.curves import curves, mean_curve
from essential_sparsity.knees.placing import Placing, next_levels
from essential_sparsity.metrics.registry import performance
from essential_sparsity.records import record
from essential_sparsity.run.job import run_job
from essential_sparsity.tables import stack


def main(snakemake: Any) -> None:
    """Write all rounds of the curve up to the next, or the reason why there is none."""
    settings = record(Placing, json.loads(snakemake.params.settings))
    rows = stack(map(pd.read_parquet, snakemake.input.rows), EVALUATIONS)
    rounds = [list(map(float, settings.start))]
    for path in snakemake.input.earlier:
        rounds = read_json(path)["rounds"]
    ((axes, curve),) = curves(rows)
    mean = mean_curve(curve)
    score, chance = (performance(v.to_numpy(float), axes["metric"]) for v in (mean["value"], rows["chance"]))
    placed = next_levels(mean["sparsity"].to_numpy(float), score, settings, float(chance.mean()))
    logging.info("%s", placed)
    names = {axis: axes[axis] for axis in ("model", "checkpoint", "method", "task")}
    rounds += [list(placed.levels)] if placed.levels else []
    ends = {"low": placed.low, "high": placed.high, "reason": placed.reason}
    write_json(snakemake.output.levels, {**names, **ends, "rounds": rounds})


if __name__ == "__main__":
    run_job(main, snakemake)
