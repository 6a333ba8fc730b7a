"""Look up which steps of a trajectory the model hub has."""

import json
from typing import Any

from essential_sparsity.checkpoints.steps import Place
from essential_sparsity.files import write_json
from essential_sparsity.records import record
from essential_sparsity.run.job import run_job
from essential_sparsity.sources.hub import find_steps


def main(snakemake: Any) -> None:
    """Write the commit of every step that exists, and the reason for every step that is missing."""
    steps = {name: record(Place, place) for name, place in json.loads(snakemake.params.steps).items()}
    write_json(snakemake.output.steps, find_steps(steps, f"{snakemake.params.where}.source.trajectory"))


if __name__ == "__main__":
    run_job(main, snakemake)
