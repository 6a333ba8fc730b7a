"""The report of a study: one HTML file that needs nothing beside it, the answer first."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import vl_convert
from altair import VEGALITE_VERSION
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from essential_sparsity.report.data import Json, as_json
from essential_sparsity.report.figures.kinds import KINDS
from essential_sparsity.report.tables import Table

# Their digests are among the parameters of the rule that writes the report.
TEMPLATE = Path(__file__).resolve().parents[3] / "report" / "report.html.j2"
# Drawn figures are a few hundred kB each; further ones lie beside the report, in the study's folder of plots.
DRAWN_FIGURES = 24


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
        figures: Drawn figures by their kind, those of :data:`KINDS`; a kind without any is not in it.
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
        return self.emergence or self.statistics or any(KINDS[kind].pretraining for kind in self.figures)


def render_report(template: Path, content: ReportContent, data: Json) -> str:
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
        kinds=KINDS, policy=content_policy(style, (library, script)),
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
