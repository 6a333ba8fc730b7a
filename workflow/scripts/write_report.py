"""Write the report of a study, and the summary that a run ends with."""

import json
import textwrap
from pathlib import Path
from typing import Any

import pandas as pd

from essential_sparsity import findings
from essential_sparsity.costs import stage_times
from essential_sparsity.files import atomic_path, read_json
from essential_sparsity.job import run_job
from essential_sparsity.report import (
    CAPTIONS,
    TEMPLATE,
    ReportContent,
    ReportFigure,
    costs_table,
    headline_table,
    knees_table,
    provenance_table,
    render_report,
)
from essential_sparsity.trajectory_notes import missing_notes, outlier_notes

SECTIONS = {
    "curves": "Performance over sparsity",
    "layers": "Sparsity of every matrix at the knee",
    "weights": "Statistics of the weights",
}

VERSIONS = {"workflow": "workflow_commit", "torch": "torch_version", "transformers": "transformers_version"}


def figure(kind: str, path: Path, task_labels: dict[str, str]) -> ReportFigure:
    """Return a plot as a figure of the report; its path says what it shows."""
    model = path.stem if kind == "weights" else path.parent.name
    title = model if kind == "weights" else f"{model}: {task_labels[path.stem]}"
    return ReportFigure(SECTIONS[kind], title, CAPTIONS[kind], f"{SECTIONS[kind]}, {title}", path.read_bytes())


def main(snakemake: Any) -> None:
    """Write the page and the summary."""
    names = ("evaluations", "knees", "costs", "weights")
    evaluations, knees, costs, weights = (pd.read_parquet(snakemake.input[name]) for name in names)
    notes = missing_notes({Path(p).parent.name: read_json(p) for p in snakemake.input.steps}) + outlier_notes(weights)
    settings, methods = json.loads(snakemake.params.knees), json.loads(snakemake.params.methods)
    tasks = json.loads(snakemake.params.tasks)
    labels = {name: task["label"] for name, task in tasks.items()}
    rows = findings.finding_rows(evaluations, knees, settings["rules"][0], methods, labels)
    provenance = [read_json(path) for path in snakemake.input.provenance]
    plots = {"curves": "curves", "layers": "matrices", "weights": "statistics"}
    content = ReportContent(
        title=snakemake.params.title,
        study=snakemake.wildcards.study,
        sentences=(*findings.finding_sentences(evaluations, knees, settings, methods, labels), *notes),
        note=findings.reading_note(settings),
        headline=headline_table(rows),
        departures=(*findings.departures(tasks), *findings.evaluation_notes(evaluations, labels)),
        figures=tuple(figure(kind, Path(p), labels) for kind, name in plots.items() for p in snakemake.input[name]),
        knees=knees_table(knees, settings["rules"], methods, labels),
        costs=costs_table(costs),
        provenance=provenance_table({(p["model"], p["revision"]): p for p in provenance}.values()),
        versions={
            name: ", ".join(sorted(evaluations[column].fillna("not a git clone").unique()))
            for name, column in VERSIONS.items()
        },
    )
    page = render_report(TEMPLATE, content)
    with atomic_path(snakemake.output.page) as temporary:
        temporary.write_text(page, encoding="utf-8")
    found = "\n".join(textwrap.fill(s, 110, initial_indent="- ", subsequent_indent="  ") for s in content.sentences)
    parts = [found, findings.summary_text(rows, settings), stage_times(costs), f"Report: {snakemake.output.page}\n"]
    with atomic_path(snakemake.output.summary) as temporary:
        temporary.write_text("\n".join(parts), encoding="utf-8")


if __name__ == "__main__":
    run_job(main, snakemake)
