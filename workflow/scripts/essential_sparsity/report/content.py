"""From a study's tables to what its report says and draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import altair
import pandas as pd
import vl_convert

from essential_sparsity.checkpoints.steps import step_of
from essential_sparsity.data.tasks import AnyTask
from essential_sparsity.knees.readings import Settings
from essential_sparsity.report import data as drawn
from essential_sparsity.report import tables as report_tables
from essential_sparsity.report.charts import chart_specs
from essential_sparsity.report.figures.kinds import KINDS, caption
from essential_sparsity.report.figures.style import method_looks, palette
from essential_sparsity.report.page import DRAWN_FIGURES, ReportContent, ReportFigure
from essential_sparsity.report.words.headline import finding_rows
from essential_sparsity.report.words.knees import answer_sentence, model_sizes
from essential_sparsity.report.words.notes import departures, evaluation_notes
from essential_sparsity.report.words.numbers import reading_note
from essential_sparsity.report.words.sentences import finding_sentences
from essential_sparsity.report.words.verdicts import verdicts_sentence

_VERSIONS = {"workflow": "workflow_commit", "torch": "torch_version", "transformers": "transformers_version"}
_KINDS = 10

Tables = Mapping[str, pd.DataFrame]


@dataclass(frozen=True)
class Study:
    """What a report is told of a study besides its tables.

    Attributes:
        name: The study's name.
        title: Its title, a question.
        knees: Its settings ``knees``.
        methods: What its methods are called, by their names in the registry.
        tasks: The registry's entries of its tasks.
        provenance: Where each checkpoint came from.
        notes: What a reader must know of its trajectories.
        plots: The drawn figures by their kind, such as ``curves``; those of :data:`report.figures.kinds.KINDS`.
    """

    name: str
    title: str
    knees: Settings
    methods: Mapping[str, str]
    tasks: Mapping[str, AnyTask]
    provenance: Sequence[Mapping[str, str]]
    notes: Sequence[str]
    plots: Mapping[str, Sequence[Path]]

    @cached_property
    def task_labels(self) -> dict[str, str]:
        """What plots call each task."""
        return {name: task.label for name, task in self.tasks.items()}

    @property
    def confidence(self) -> float:
        """The level of the intervals."""
        return self.knees.confidence

    def rows(self, tables: Tables) -> pd.DataFrame:
        """Return the headline, a row a curve."""
        rule = self.knees.rules[0]
        return finding_rows(tables["evaluations"], tables["knees"], rule, self.methods, self.task_labels)


def report_data(study: Study, tables: Tables, rows: pd.DataFrame) -> drawn.Json:
    """Return what the page's script draws from.

    Args:
        study: What the report is told of the study.
        tables: ``knees, levels`` (the table of curves), ``layers, weights``.
        rows: What :meth:`Study.rows` returns.
    """
    levels = tables["levels"]
    used = set(levels["method"])
    looks = method_looks({name: label for name, label in study.methods.items() if name in used})
    first = {"model": "model", "task": "task_name", "method": "method_name"}
    return {
        "study": study.name,
        "first": {key: str(rows[column].iloc[0]) for key, column in first.items()} if len(rows) else {},
        "labels": drawn.label_data(levels, study.knees.rules, looks, study.methods, study.task_labels),
        "curves": drawn.curve_data(levels, tables["knees"]),
        "maps": drawn.map_data(tables["layers"]),
        "weights": drawn.weight_data(tables["weights"]),
        "specs": chart_specs(looks, palette(_KINDS)),
    }


def report_content(
    study: Study, tables: Tables, rows: pd.DataFrame, data: drawn.Json, environment: str
) -> ReportContent:
    """Return what the page says.

    Args:
        study: What the report is told of the study.
        tables: All tables of the study, that of curves as ``levels``; ``findings`` is empty where it makes no claim.
        rows: What :meth:`Study.rows` returns.
        data: What :func:`report_data` returns.
        environment: The interpreter and its packages, in a line.
    """
    evaluations, knees = tables["evaluations"], tables["knees"]
    labels = study.task_labels
    sizes = model_sizes(tables["layers"])
    first, others = report_tables.headline_tables(rows, sizes, study.confidence)
    rules = study.knees.rules
    return ReportContent(
        title=study.title, study=study.name,
        answer=" ".join(filter(None, [answer_sentence(rows, study.knees), verdicts_sentence(tables["findings"])])),
        headline=first, headline_caption="What can be removed at the knee", others=others,
        note=f"{reading_note(study.knees)} {_SAVED}",
        sentences=(
            *finding_sentences(
                evaluations, knees, tables["differences"], study.knees, study.methods, labels
            ), *study.notes,
        ),
        departures=(*departures(study.tasks), *evaluation_notes(evaluations, labels)),
        figures={kind: _figures(kind, study) for kind in KINDS if study.plots.get(kind)},
        verdicts=report_tables.verdicts_table(tables["findings"], study.methods, labels),
        knees=report_tables.knees_table(knees, rules, study.methods, labels),
        differences=report_tables.differences_table(
            tables["differences"], rules[0], study.confidence, study.methods, labels
        ),
        costs=report_tables.costs_table(tables["costs"]),
        provenance=report_tables.provenance_table({(p["model"], p["revision"]): p for p in study.provenance}.values()),
        versions={**_versions(evaluations), "environment": environment}, data_note=_data_note(data),
        files_note=" ".join([_FILES.format(study=study.name), *_left_out(study, tables["levels"])]),
        emergence=has_emergence(tables["levels"]),
        statistics=not tables["weights"].empty,
    )  # fmt: skip


_SAVED = (
    "Saved: the weights that become zero, their share of all weights of the checkpoint, and the room they take at "
    "16 bits; zeros free it only in a format for sparse tensors. Lost: the metric at the knee against the dense model."
)
_FILES = (
    "The tables of this page are Parquet files in results/studies/{study}/tables, and the figures lie as SVG, PDF and "
    "PNG in results/studies/{study}/plots; the packages that the report was written with are listed in "
    "results/studies/{study}/environment.txt."
)


def has_emergence(levels: pd.DataFrame) -> bool:
    """Say whether a curve is known at several steps of pre-training.

    Args:
        levels: The table of curves.
    """
    stepped = levels[levels["checkpoint"].map(lambda name: step_of(name) is not None)]
    return bool((stepped.groupby(["model", "task"])["checkpoint"].nunique() > 1).any())


def _figures(kind: str, study: Study) -> tuple[ReportFigure, ...]:
    """Return drawn figures; their paths say what they show."""
    found = []
    for path in study.plots[kind][:DRAWN_FIGURES]:
        # Below the folder of its kind a figure is named by its model and task, or by one name.
        title = path.stem if path.parent.name == kind else f"{path.parent.name}: {study.task_labels[path.stem]}"
        found.append(ReportFigure(title, caption(kind), f"{KINDS[kind].section}, {title}", path.read_bytes()))
    return tuple(found)


def _left_out(study: Study, levels: pd.DataFrame) -> list[str]:
    """Say how many drawn figures and curves have no room on the page."""
    figures = sum(max(0, len(paths) - DRAWN_FIGURES) for paths in study.plots.values())
    curves = levels.groupby(["model", "checkpoint", "method", "task"]).ngroups - drawn.CURVES
    notes = [f"{figures:,} further figures are only there."] if figures else []
    return notes + ([f"{curves:,} further curves are only in curves.parquet."] if curves > 0 else [])


def _data_note(data: drawn.Json) -> str:
    left = data["maps"]["left_out"]
    return (
        f"{left:,} further masks have no room here; the table layers.parquet of the study holds them." if left else ""
    )


def _versions(evaluations: pd.DataFrame) -> dict[str, str]:
    found = {
        name: ", ".join(sorted(evaluations[column].fillna("not a git clone").unique()))
        for name, column in _VERSIONS.items()
    }
    charts = f"Vega {vl_convert.get_vega_version()}, Vega-Lite {altair.VEGALITE_VERSION} (BSD 3-clause), by Altair"
    return {**found, "charts": f"{charts} {altair.__version__}"}
