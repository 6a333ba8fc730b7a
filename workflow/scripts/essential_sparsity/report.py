"""The report of a study: one HTML file that needs nothing beside it, the findings first."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from essential_sparsity.findings import (
    knee_text,
    percent,
    range_text,
    records,
    resolution_text,
    value_at_knee_text,
    value_text,
)
from essential_sparsity.knee import RULE_NAMES
from essential_sparsity.trajectory import checkpoint_label

# Its digest is among the parameters of the rule that writes the report.
TEMPLATE = Path(__file__).resolve().parents[2] / "report" / "report.html.j2"

CAPTIONS = {
    "curves": (
        "How to read it: each line is a method, the mean over the seeds (faint dots: single seeds); the further right "
        "a line stays within the grey band, the more weights can go. Where the band is too thin to be seen, the middle "
        "panel looks closer. The strip below shows where each rule reads the knee of the mean curve; its bar spans the "
        "rules, and a hollow mark means that the true knee lies outside the levels tried. Take care: between "
        "levels a curve is not known, so one step between two methods decides nothing, and rules that lie far apart "
        "mean a curve without a clear knee."
    ),
    "layers": (
        "How to read it: one cell is one weight matrix, its colour the share of its weights that is removed at the "
        "highest level tried that lies within the knee; the panel's title gives that level. A uniform panel is one "
        "where every matrix gives the same share, by rule (layer-wise) or by chance (random). Take care: where the "
        "knee lies below the first level, the lowest level is shown, and the model is already damaged there. A matrix "
        "that gives much has many small weights; that alone does not show that it matters less."
    ),
    "weights": (
        "How to read it: statistics of the prunable matrices, a line a kind of matrix. Over pre-training the lines are "
        "means over the blocks, and black is the mean over all matrices, weighted by their size; a model with one "
        "checkpoint is shown block by block. More small weights, or a higher kurtosis or Hoyer sparsity, mean that "
        "magnitude is gathered in fewer weights. Take care: a fixed threshold also moves when all weights grow or "
        "shrink, one relative to the standard deviation does not; and one training shows one course, not its spread."
    ),
}


@dataclass(frozen=True)
class Table:
    """A table of finished texts.

    Attributes:
        columns: The headings.
        rows: One text a column.
        numeric: The columns to set flush right.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: frozenset[str] = frozenset()


@dataclass(frozen=True)
class ReportFigure:
    """A figure of the report.

    Attributes:
        section: The heading it stands under; figures of one section follow each other.
        title: Its own heading.
        caption: How to read it, and what to conclude with care.
        alt: What it shows, for those who do not see it.
        image: The file's content, SVG or PNG.
    """

    section: str
    title: str
    caption: str
    alt: str
    image: bytes

    @property
    def uri(self) -> str:
        """The image as a ``data:`` URI: inside the page, yet apart from it, so that no two figures share an id."""
        kind = "image/png" if self.image.startswith(b"\x89PNG") else "image/svg+xml"
        return f"data:{kind};base64,{base64.b64encode(self.image).decode('ascii')}"


@dataclass(frozen=True)
class ReportContent:
    """Everything the report says.

    Attributes:
        title: The study's title, a question.
        study: The study's name.
        sentences: The findings in words, the most important first.
        note: How the headline's knees are defined.
        headline: The headline table.
        departures: Where the study departs from the paper.
        figures: In the order of the page.
        knees: The knees by all rules.
        costs: Time and memory, a row a rule.
        provenance: Where the models came from.
        versions: Names and versions of the software.
    """

    title: str
    study: str
    sentences: tuple[str, ...]
    note: str
    headline: Table
    departures: tuple[str, ...]
    figures: tuple[ReportFigure, ...]
    knees: Table
    costs: Table
    provenance: Table
    versions: Mapping[str, str]


def render_report(template: Path, content: ReportContent) -> str:
    """Return the report as one HTML page.

    Args:
        template: The Jinja2 template.
        content: What to fill in; every text is escaped.
    """
    environment = Environment(
        loader=FileSystemLoader(template.parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["unbroken"] = unbroken
    sections: dict[str, list[ReportFigure]] = {}
    for figure in content.figures:
        sections.setdefault(figure.section, []).append(figure)
    return environment.get_template(template.name).render(content=content, sections=sections)


def unbroken(text: str) -> str:
    """Keep a number and its per cent sign on one line."""
    return text.replace(" %", "\N{NO-BREAK SPACE}%")


def headline_table(rows: pd.DataFrame) -> Table:
    """Return the headline as texts.

    Args:
        rows: What :func:`essential_sparsity.findings.finding_rows` returns.
    """
    # A column that says nothing takes the room of those that do.
    flagged, seeded = bool((rows["flags"] != "").any()), bool((rows["seeds"] > 1).any())
    columns = ["Model", "Checkpoint", "Task", "Method", "Dense", "Knee", "At the knee", "Over rules"]
    columns += ["Over seeds"] * seeded + ["Flags"] * flagged
    texts = []
    for row in records(rows):
        task = f"{row['task']} ({row['metric']})"
        seeds = f"{range_text(row['seed_lowest'], row['seed_highest'])} ({row['seeds']})" if row["seeds"] > 1 else "-"
        texts.append((
            row["model"], checkpoint_label(row["checkpoint"]), task, row["method"],
            value_text(row["dense_value"], row["metric"]), _signs(knee_text(row)), value_at_knee_text(row),
            range_text(row["lowest"], row["highest"]), *([seeds] * seeded), *([row["flags"]] * flagged),
        ))  # fmt: skip
    numeric = frozenset({"Dense", "Knee", "At the knee", "Over rules", "Over seeds"})
    return Table(tuple(columns), tuple(texts), numeric)


def knees_table(
    knees: pd.DataFrame,
    rules: Sequence[str],
    method_labels: Mapping[str, str],
    task_labels: Mapping[str, str],
) -> Table:
    """Return the knees of the mean curves by every rule, a row a curve.

    Args:
        knees: The table of knees.
        rules: The study's rules, the headline's first.
        method_labels: What a method is called, by its name in the registry.
        task_labels: What a task is called, by its name in the registry.
    """
    mean = knees[knees["seed"].isna()]
    names = tuple(_capital(RULE_NAMES.get(rule, rule)) for rule in rules)
    texts = []
    for key, part in mean.groupby(["model", "task", "checkpoint", "method"], sort=False):
        model, task, checkpoint, method = map(str, key)
        read = {row["rule"]: row for row in records(part)}
        remarks = dict.fromkeys(flag for flag in part["flags"] if flag)
        texts.append((
            model, checkpoint_label(checkpoint), task_labels.get(task, task), method_labels.get(method, method),
            *(_reading(read[rule]) if rule in read else "-" for rule in rules), "; ".join(remarks),
        ))  # fmt: skip
    return Table(("Model", "Checkpoint", "Task", "Method", *names, "Remarks"), tuple(texts), frozenset(names))


def _reading(row: Mapping[str, Any]) -> str:
    """Write one rule's knee, with where it is censored, or the levels that enclose it where the rule rests on two."""
    if pd.isna(row["knee"]):
        return "none"
    ends = {"left": " (levels start above it)", "right": " (levels end below it)"}
    between = resolution_text(row)
    levels = "" if between == "-" else f" (levels: {between})"
    return percent(row["knee"]) + ends.get(row["censored"], levels)


def costs_table(costs: pd.DataFrame) -> Table:
    """Return time and memory, a row a rule, the longest first, and the total.

    Args:
        costs: The table of costs.
    """
    columns = ("Rule", "Jobs", "Total (s)", "Longest job (s)", "Peak memory (MB)")
    if costs.empty:
        return Table(columns, (), frozenset(columns[1:]))
    sums = costs.groupby("rule").agg(
        jobs=("job", "size"), total=("seconds", "sum"), longest=("seconds", "max"), peak=("max_rss_mb", "max")
    )
    rows = [
        (str(rule), f"{row['jobs']:,.0f}", f"{row['total']:,.1f}", f"{row['longest']:,.1f}", _memory(row["peak"]))
        for rule, row in sums.sort_values("total", ascending=False).iterrows()
    ]
    total = ("all", f"{len(costs):,}", f"{costs['seconds'].sum():,.1f}", f"{costs['seconds'].max():,.1f}")
    return Table(columns, (*rows, (*total, _memory(costs["max_rss_mb"].max()))), frozenset(columns[1:]))


def _memory(megabytes: float) -> str:
    # Snakemake cannot measure a job that ends within a second.
    return "-" if pd.isna(megabytes) else f"{megabytes:,.0f}"


def provenance_table(rows: Iterable[Mapping[str, Any]]) -> Table:
    """Return where the models came from.

    Args:
        rows: For each model ``model, source, revision, sha256, licence``; a value that is missing becomes a dash.
    """
    keys = ("model", "source", "revision", "sha256", "licence")
    texts = tuple(tuple(str(row.get(key) or "-") for key in keys) for row in rows)
    return Table(("Model", "Source", "Revision", "SHA-256", "Licence"), texts)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _signs(text: str) -> str:
    """Set the comparison signs of plain text as a printer would."""
    return text.replace(">=", "\N{GREATER-THAN OR EQUAL TO}").replace("<=", "\N{LESS-THAN OR EQUAL TO}")
