"""Pages of the report, made from synthetic tables."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

import entries
import frames
from essential_sparsity.report import content as report_content
from essential_sparsity.report import page as report
from essential_sparsity.report.figures import style as plots
from essential_sparsity.report.figures.curves import plot_curves

TEMPLATE = report.TEMPLATE
TASKS = {
    frames.PLOTS: entries.task("perplexity", label="film plots", windows=12, window=512),
    frames.GENRE: entries.task(label="plot or review", head="sequence_classification"),
}


def tables(model: str = frames.BERT) -> dict[str, pd.DataFrame]:
    """Return the tables of a study; ``model`` is what its small BERT is called."""
    found = {
        "evaluations": frames.evaluations(), "knees": frames.knees(), "levels": frames.levels(),
        "differences": frames.differences(), "layers": frames.layers(), "weights": frames.weights(),
        "costs": frames.costs(), "findings": frames.findings(),
    }  # fmt: skip
    for table in found.values():
        for column in table.columns.intersection(["model", "other_model"]):
            table[column] = table[column].replace(frames.BERT, model)
    return found


def study(folder: Path, found: dict[str, pd.DataFrame], model: str = frames.BERT) -> report_content.Study:
    """Return what a report is told of a study, with one drawn figure, in two formats."""
    plots.apply_style()
    evaluations, knees = (found[name][found[name]["model"] == model] for name in ("evaluations", "knees"))
    figure = plot_curves(evaluations, knees, frames.METHOD_LABELS, "plot or review", model, frames.SETTINGS)
    paths = []
    for suffix in (".svg", ".png"):
        path = folder / suffix[1:] / "a model" / f"{frames.GENRE}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        plots.save_figure(figure, path)
        paths.append(path)
    # One that is named by itself, below the folder of its kind.
    finding = folder / "findings" / "essential-sparsity.svg"
    finding.parent.mkdir()
    plots.save_figure(figure, finding)
    provenance = [{"model": model, "source": "pretrain", "revision": None, "licence": "MIT"}]
    return report_content.Study(
        name="default", title="How many weights can be removed in one shot?", knees=frames.SETTINGS,
        methods=frames.METHOD_LABELS, tasks=TASKS, provenance=provenance, notes=[],
        plots={"curves": paths, "layers": [], "findings": [finding]},
    )  # fmt: skip


def write_page(folder: Path, model: str = frames.BERT) -> tuple[Path, report.ReportContent]:
    """Write the report of the default study's tables; return its path and what it says."""
    found = tables(model)
    told = study(folder, found, model)
    rows = told.rows(found)
    data = report_content.report_data(told, found, rows)
    content = report_content.report_content(told, found, rows, data, "Python 3.11.7 on Linux x86_64, 2 packages")
    path = folder / "report.html"
    path.write_text(report.render_report(TEMPLATE, content, data), encoding="utf-8")
    return path, content
