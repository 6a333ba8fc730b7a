"""Give each claim of a study its verdict."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from essential_sparsity.files import atomic_path
from essential_sparsity.findings.claims import TABLES_OF, Claim
from essential_sparsity.findings.evidence import Evidence
from essential_sparsity.findings.tables import FINDINGS
from essential_sparsity.findings.verdicts import judge
from essential_sparsity.knees.readings import Settings
from essential_sparsity.knees.samples import Examples
from essential_sparsity.records import record
from essential_sparsity.run.job import run_job
from essential_sparsity.tables import write_table


def main(snakemake: Any) -> None:
    """Write the table of findings."""
    read = {name: snakemake.input.get(name) for name in TABLES_OF.values()}
    drawn = frozenset(json.loads(snakemake.params.drawn))
    evidence = Evidence(
        pd.read_parquet(snakemake.input.evaluations),
        Examples(Path(snakemake.params.examples), json.loads(snakemake.params.positive), drawn),
        record(Settings, json.loads(snakemake.params.knees)),
        json.loads(snakemake.params.last),
        {name: pd.read_parquet(path) for name, path in read.items() if path},
        drawn,
    )
    claims = [record(Claim, values) for values in json.loads(snakemake.params.claims)]
    frame = judge(claims, evidence, snakemake.wildcards.study, snakemake.params.scale)
    written = write_table(frame, FINDINGS, Path(snakemake.output.table))
    with atomic_path(snakemake.output.csv) as temporary:
        written.to_csv(temporary, index=False)


if __name__ == "__main__":
    run_job(main, snakemake)
