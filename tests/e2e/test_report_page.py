"""The report as a reader gets it: one file, nothing from outside, the findings on the first screen."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

import frames
from browser import chromium, needs_chromium
from essential_sparsity import findings, plots, report

TEMPLATE = Path(__file__).parents[2] / "workflow" / "report" / "report.html.j2"
HOSTILE = "<script>alert('m')</script>&\"quoted\""
# The rules above, within and below a table: --rule in the template.
RULE_COLOUR = np.array([0x1F, 0x4E, 0x79]) / 255


def make_content(tmp_path: Path, model: str = frames.BERT) -> report.ReportContent:
    plots.apply_style()
    evaluations, knees = frames.evaluations(), frames.knees()
    for table in (evaluations, knees):
        table["model"] = table["model"].replace(frames.BERT, model)
    mine = evaluations[evaluations["model"] == model], knees[knees["model"] == model]
    figure = plots.plot_curves(*mine, frames.METHOD_LABELS, "plot or review", model, frames.SETTINGS)
    images = []
    for suffix in (".svg", ".png"):
        plots.save_figure(figure, tmp_path / f"curves{suffix}")
        images.append((tmp_path / f"curves{suffix}").read_bytes())
    labels = frames.METHOD_LABELS, frames.TASK_LABELS
    task = {"label": "film plots", "protocol": "perplexity", "metric": "perplexity", "windows": 12, "window": 512}
    tasks = {"t": task}
    return report.ReportContent(
        title="How many weights can be removed in one shot?", study="default",
        sentences=tuple(findings.finding_sentences(evaluations, knees, frames.SETTINGS, *labels)),
        note=findings.reading_note(frames.SETTINGS),
        headline=report.headline_table(findings.finding_rows(evaluations, knees, "tolerance", *labels)),
        departures=tuple(findings.departures(tasks)),
        figures=tuple(
            report.ReportFigure("Curves", f"{model} {i}", report.CAPTIONS["curves"], f"Accuracy of {model}", image)
            for i, image in enumerate(images)
        ),
        knees=report.knees_table(knees, frames.SETTINGS["rules"], *labels),
        costs=report.costs_table(frames.costs()),
        provenance=report.provenance_table([{"model": model, "source": "pretrain", "licence": "MIT"}]),
        versions={"torch": "2.13.0"},
    )  # fmt: skip


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> report.ReportContent:
    return make_content(tmp_path_factory.mktemp("figures"))


@pytest.fixture(scope="module")
def page(content: report.ReportContent, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(report.render_report(TEMPLATE, content), encoding="utf-8")
    return path


class Reader(HTMLParser):
    """Collects what a page refers to, its ids, tags, images and text."""

    def __init__(self) -> None:
        super().__init__()
        self.references: list[str] = []
        self.ids: list[str] = []
        self.tags: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "srcset", "poster", "data", "action", "xlink:href"):
                self.references.append(value or "")
            if name == "id":
                self.ids.append(value or "")
        if tag == "img":
            self.images.append(dict(attrs))

    def handle_data(self, data: str) -> None:
        self.text += data


def read(html: str) -> Reader:
    reader = Reader()
    reader.feed(html)
    return reader


def plain(text: str) -> str:
    return text.replace("\N{NO-BREAK SPACE}", " ")


def test_nothing_comes_from_outside(page: Path) -> None:
    html = page.read_text(encoding="utf-8")
    reader = read(html)
    assert reader.references
    assert all(reference.startswith(("data:", "#")) for reference in reader.references)
    assert not {"script", "link", "iframe", "object", "embed"} & set(reader.tags)
    assert "@import" not in html and "url(" not in html


def test_links_have_a_target_and_ids_are_unique(page: Path) -> None:
    reader = read(page.read_text(encoding="utf-8"))
    assert len(reader.ids) == len(set(reader.ids))
    assert {r[1:] for r in reader.references if r.startswith("#")} <= set(reader.ids)


def test_every_figure_is_described(page: Path, content: report.ReportContent) -> None:
    images = read(page.read_text(encoding="utf-8")).images
    assert [image["alt"] for image in images] == [figure.alt for figure in content.figures]
    kinds = [str(image["src"]).split(";")[0] for image in images]
    assert kinds == ["data:image/svg+xml", "data:image/png"]


def test_the_findings_come_first(page: Path, content: report.ReportContent) -> None:
    text = plain(read(page.read_text(encoding="utf-8")).text)
    order = [text.index(part) for part in (*content.sentences, "Essential sparsity of every curve", "How to read it")]
    assert order == sorted(order)
    assert text.rindex(content.title) < order[0]


def test_tables_are_whole(page: Path, content: report.ReportContent) -> None:
    text = plain(read(page.read_text(encoding="utf-8")).text)
    for table in (content.headline, content.knees, content.costs, content.provenance):
        assert all(len(row) == len(table.columns) for row in table.rows)
        assert all(cell in text for row in table.rows for cell in row)


def test_costs_are_added_up_by_rule() -> None:
    table = report.costs_table(frames.costs())
    rows = {row[0]: row[1:] for row in table.rows}
    assert rows["prune_weights"] == ("2", "8.4", "4.3", "910")
    assert rows["collect_tables"] == ("1", "0.4", "0.4", "-")
    assert rows["all"] == ("5", "302.8", "262.8", "1,450")


def test_a_hostile_name_is_only_text(tmp_path: Path) -> None:
    html = report.render_report(TEMPLATE, make_content(tmp_path, HOSTILE))
    reader = read(html)
    assert "<script" not in html
    assert "script" not in reader.tags
    assert HOSTILE in reader.text
    assert all(reference.startswith(("data:", "#")) for reference in reader.references)


def test_an_empty_study_still_renders(content: report.ReportContent) -> None:
    empty = report.Table(("Model",), ())
    html = report.render_report(
        TEMPLATE, report.ReportContent("t", "s", (), "", empty, (), (), empty, empty, empty, {})
    )
    assert html.count("nothing to show") == 4


@needs_chromium
def test_the_browser_shows_the_findings(page: Path, content: report.ReportContent, tmp_path: Path) -> None:
    text = plain(read(chromium(page, tmp_path / "profile", "--dump-dom")).text)
    assert all(sentence in text for sentence in content.sentences)
    assert all(cell in text for row in content.headline.rows for cell in row)


def ruled_rows(picture: np.ndarray) -> list[int]:
    """Return the rows of a picture that a table's rule crosses, one for each rule."""
    on_rule = (np.abs(picture[..., :3] - RULE_COLOUR) < 0.02).all(axis=-1).mean(axis=1) > 0.5
    return [y for y in np.flatnonzero(on_rule) if not on_rule[y - 1]]


@needs_chromium
def test_the_headline_table_is_on_the_first_screen(page: Path, tmp_path: Path) -> None:
    shot = tmp_path / "desktop.png"
    chromium(page, tmp_path / "profile", f"--screenshot={shot}", "--window-size=1280,900")
    picture = imread(shot)
    assert picture.shape[:2] == (900, 1280)
    # Above the head of the table, below it, and at the table's end: all of it is within the screen.
    assert len(ruled_rows(picture)) == 3


@needs_chromium
def test_a_telephone_shows_text_within_its_width(page: Path, tmp_path: Path) -> None:
    shot = tmp_path / "phone.png"
    chromium(page, tmp_path / "profile", f"--screenshot={shot}", "--window-size=400,800")
    ink = imread(shot)[..., :3].mean(axis=-1) < 0.7
    assert 0.02 < ink.mean() < 0.5
    # The margins stay white: no line of text runs out of the screen.
    assert not ink[:, :8].any() and not ink[:, -8:].any()
