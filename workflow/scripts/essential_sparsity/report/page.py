"""The report of a study: one HTML file that needs nothing beside it, the answer first."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import vl_convert
from altair import VEGALITE_VERSION
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from essential_sparsity.report.data import as_json
from essential_sparsity.report.tables import Table

# Their digests are among the parameters of the rule that writes the report.
TEMPLATE = Path(__file__).resolve().parents[3] / "report" / "report.html.j2"
# Drawn figures are a few hundred kB each; further ones lie beside the report, in the study's folder of plots.
DRAWN_FIGURES = 24

# The kinds of drawn figures that belong to pre-training, in the order of the page.
PRETRAINING = ("weights", "losses", "emergence", "ages")

CAPTIONS = {
    "findings": (
        "How to read it: above, the curves that the finding compares, as change from the dense model, with bands for "
        "intervals and a stroke and a diamond at the knee (hollow where the levels do not enclose it); of a group of "
        "pre-trainings the mean is the thick line, and each one a thin line. Below, each "
        "estimate with its interval; the claim holds in the shaded region. A green circle: the whole interval lies in "
        "it; an orange cross: outside; a grey square: undecided. Claim, statistic and region stood in the study before "
        "it ran. Take care: undecided means neither that the claim is true nor that it is false."
    ),
    "curves": (
        "How to read it: each line is a method, the mean over the seeds (faint dots: single seeds) with its interval; "
        "the further right a line stays within the grey band, the more weights can go. Where that band is too thin to "
        "be seen, the middle panel looks closer. The strip below shows where each rule reads the knee of the mean "
        "curve, a thin line being its interval; the pale bar spans the rules, and a hollow mark means that the true "
        "knee lies outside the levels tried. Take care: between "
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
    "similarities": (
        "How to read it: each line is a pair of methods, the mean over the seeds of the cosine between the sets of "
        "weights that their masks keep at the same level; the band spans the seeds. The left panel shows the cosine "
        "itself: masks that have nothing to do with each other have 1 - s (dotted), so it falls with sparsity whatever "
        "the methods. On the right that is taken off: 0 is chance, 1 the same mask. Take care: equal performance does "
        "not need equal masks, and a method that draws differs from itself at another seed as well."
    ),
    "losses": (
        "How to read it: the loss of a training by the workflow over its steps; the line is the mean over the steps "
        "since the point before, and each diamond a checkpoint, with the loss on rows that training does not see. "
        "Where the diamonds rise above the line, the model learns its corpus by heart. Take care: losses of different "
        "objectives or vocabularies cannot be compared, and a lower loss promises no better start for fine-tuning."
    ),
    "emergence": (
        "How to read it: above, shares of near-zero weights and other statistics of all prunable weights over the "
        "steps of pre-training, and the distribution of their magnitudes; below, every matrix, a row each. A "
        "line or dot marks the step at which a statistic jumps most, solid or filled where the jump is more abrupt "
        "than smooth drift with noise (p adjusted for the number of tests), and p = 1 where a kink or one stray value "
        "explains more. Take care: what changes within one interval of steps counts as a jump, and a share below a "
        "fixed threshold also moves when all weights grow or shrink."
    ),
    "ages": (
        "How to read it: the knee at each step of pre-training, a line a method, with its interval; a hollow triangle "
        "is a knee beyond the last level tried (upwards) or below the first (downwards). Below: the unpruned model. "
        "Take care: a model that has learnt little has little to lose, so a knee says nothing where the lower line is "
        "near chance; and one training shows one course, not its spread."
    ),
}


@dataclass(frozen=True)
class ReportFigure:
    """A figure of the report.

    Attributes:
        title: Its own heading.
        caption: How to read it, and what to conclude with care.
        alt: What it shows, for those who do not see it.
        image: The file's content, SVG or PNG.
    """

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
        answer: The answer, one sentence.
        headline: The table of the first screen.
        headline_caption: Its caption.
        others: The same for all other curves.
        note: How the headline's knees are defined.
        sentences: The findings in words, the most important first.
        departures: Where the study departs from the paper.
        figures: Drawn figures by their kind, those of :data:`CAPTIONS`; a kind without any is not in it.
        verdicts: The claims of the study and what became of them; without rows where it makes none.
        knees: The knees by all rules.
        differences: The comparisons of knees.
        costs: Time and memory, a row a rule.
        provenance: Where the models came from.
        versions: Names and versions of the software.
        data_note: What the interactive figures leave out; empty if nothing.
        files_note: Where the figures and tables lie as files.
        emergence: Whether a knee is known at several steps of pre-training.
        statistics: Whether statistics of the weights are known.
    """

    title: str
    study: str
    answer: str
    headline: Table
    headline_caption: str
    others: Table
    note: str
    sentences: tuple[str, ...]
    departures: tuple[str, ...]
    figures: Mapping[str, tuple[ReportFigure, ...]]
    verdicts: Table
    knees: Table
    differences: Table
    costs: Table
    provenance: Table
    versions: Mapping[str, str]
    data_note: str
    files_note: str
    emergence: bool
    statistics: bool

    @property
    def pretraining(self) -> bool:
        """Whether there is anything to say of pre-training."""
        return self.emergence or self.statistics or any(kind in self.figures for kind in PRETRAINING)


def render_report(template: Path, content: ReportContent, data: Mapping[str, Any]) -> str:
    """Return the report as one HTML page.

    Args:
        template: The Jinja2 template; the style sheet and the script lie beside it.
        content: What to fill in; every text is escaped.
        data: What the script draws from.
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
    style, script = (template.with_name(f"report.{suffix}").read_text(encoding="utf-8") for suffix in ("css", "js"))
    library = chart_library()
    return environment.get_template(template.name).render(
        content=content, data=as_json(data), style=style, script=script, library=library,
        pretraining=PRETRAINING, policy=content_policy(style, (library, script)),
    )  # fmt: skip


@cache
def chart_library() -> str:
    """Return Vega, Vega-Lite and vega-embed as one script that needs no network.

    Raises:
        ValueError: The script cannot stand inside a page.
    """
    library: str = vl_convert.javascript_bundle(
        "window.vegaEmbed = vegaEmbed;", vl_version=VEGALITE_VERSION.rpartition(".")[0]
    )
    if "</script" in library.lower() or "<!--" in library:
        raise ValueError("vl_convert: the bundle of Vega holds text that would end its <script> element")
    return library


def content_policy(style: str, scripts: tuple[str, ...]) -> str:
    """Return the Content-Security-Policy: nothing but this style sheet, these scripts and images inside the page.

    Vega's expressions are interpreted, not compiled, so that no script needs ``unsafe-eval``.
    """
    return (
        f"default-src 'none'; img-src data:; style-src {_hashed(style)}; "
        f"script-src {' '.join(map(_hashed, scripts))}; base-uri 'none'; form-action 'none'"
    )


def _hashed(text: str) -> str:
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"


def unbroken(text: str) -> str:
    """Keep a number and its per cent sign on one line."""
    return text.replace(" %", "\N{NO-BREAK SPACE}%")
