"""Download what is needed of a repository of the model hub, and check it against the hub's hashes."""

import json
from pathlib import Path
from typing import Any

from essential_sparsity.run.job import run_job
from essential_sparsity.sources.hub import download


def main(snakemake: Any) -> None:
    """Put the files into ``output.files``, and at last write ``output.index``, which lists them."""
    wanted = json.loads(snakemake.params.download)
    folder = Path(snakemake.output.index).parent
    download(wanted["source"], wanted["kind"], wanted["trusted"], folder, snakemake.params.where)


if __name__ == "__main__":
    run_job(main, snakemake)
