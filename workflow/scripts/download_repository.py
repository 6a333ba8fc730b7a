"""Download what is needed of a repository of the model hub, and check it against the hub's hashes."""

import json
from pathlib import Path
from typing import Any

from essential_sparsity.records import record
from essential_sparsity.run.job import run_job
from essential_sparsity.sources.hub import download
from essential_sparsity.sources.kinds import Hub


def main(snakemake: Any) -> None:
    """Put the files into ``output.files``, and at last write ``output.index``, which lists them."""
    source = record(Hub, json.loads(snakemake.params.source))
    download(source, snakemake.params.trusted, Path(snakemake.output.index).parent, snakemake.params.where)


if __name__ == "__main__":
    run_job(main, snakemake)
