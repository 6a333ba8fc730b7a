"""Write the report of a study, and the summary that a run ends with."""

import json
import textwrap
from pathlib import Path
from typing import Any

import pandas as pd

from essential_sparsity.data.tasks import AnyTask
from essential_sparsity.files import atomic_path, read_json
from essential_sparsity.findings.tables import FINDINGS
from essential_sparsity.knees.readings import Settings
from essential_sparsity.planning.costs import stage_times
from essential_sparsity.records import record
from essential_sparsity.report.content import Study, report_content, report_data
from essential_sparsity.report.figures.kinds import KINDS
from essential_sparsity.report.page import TEMPLATE, render_report
from essential_sparsity.report.words import numbers
from essential_sparsity.report.words.summary import summary_text
from essential_sparsity.report.words.trajectory import change_notes, missing_notes, outlier_notes, same_notes
from essential_sparsity.report.words.verdicts import verdict_lines
from essential_sparsity.run.environment import environment_lines, environment_summary
from essential_sparsity.run.job import run_job
from essential_sparsity.tables import stack

TABLES = ("evaluations", "knees", "levels", "differences", "layers", "weights", "costs")


def main(snakemake: Any) -> None:
    """Write the page and the summary."""
    tables = {name: pd.read_parquet(snakemake.input[name]) for name in TABLES}
    tables["findings"] = stack(map(pd.read_parquet, snakemake.input.verdicts), FINDINGS)
    steps = missing_notes({Path(p).parent.name: read_json(p) for p in snakemake.input.steps})
    tasks = {name: record(AnyTask, task) for name, task in json.loads(snakemake.params.tasks).items()}
    provenance = [read_json(path) for path in snakemake.input.provenance]
    weights = [*same_notes(provenance), *outlier_notes(tables["weights"])]
    study = Study(
        name=snakemake.wildcards.study, title=snakemake.params.title,
        knees=record(Settings, json.loads(snakemake.params.knees)),
        methods=json.loads(snakemake.params.methods), tasks=tasks,
        provenance=provenance,
        notes=[*steps, *weights, *change_notes(pd.read_parquet(snakemake.input.changes))],
        plots={kind: [Path(path) for path in snakemake.input.plots if f"/plots/{kind}/" in path] for kind in KINDS},
    )  # fmt: skip
    environment = environment_lines()
    rows = study.rows(tables)
    data = report_data(study, tables, rows)
    content = report_content(study, tables, rows, data, environment_summary(environment))
    with atomic_path(snakemake.output.page) as temporary:
        temporary.write_text(render_report(TEMPLATE, content, data), encoding="utf-8")
    answer = textwrap.fill(content.answer, numbers.SUMMARY_COLUMNS)
    found = "\n".join(textwrap.fill(s, 110, initial_indent="- ", subsequent_indent="  ") for s in content.sentences)
    verdicts = "".join(
        f"{textwrap.fill(line, numbers.SUMMARY_COLUMNS, subsequent_indent='    ')}\n"
        for line in verdict_lines(tables["findings"], study.methods, study.task_labels)
    )
    parts = [
        f"{answer}\n",
        *filter(None, [verdicts]),
        f"{found}\n",
        summary_text(rows, study.knees),
        stage_times(tables["costs"]),
    ]
    with atomic_path(snakemake.output.environment) as temporary:
        temporary.write_text("\n".join([*environment, ""]), encoding="utf-8")
    with atomic_path(snakemake.output.summary) as temporary:
        temporary.write_text("\n".join([*parts, f"Report: {snakemake.output.page}\n"]), encoding="utf-8")


if __name__ == "__main__":
    run_job(main, snakemake)
