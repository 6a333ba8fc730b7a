"""The report as a reader gets it: one file, nothing from outside, the answer first, figures that react."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import frames
import report_pages
from browser import driven, needs_chromium
from essential_sparsity.report import data as report_data
from essential_sparsity.report import page as report
from essential_sparsity.report.tables import Table

HOSTILE = "<script>alert('m')</script>&\"quoted\"<!--<script>"
SCREENS = {"desktop": (1280, 800), "telephone": (390, 844)}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, report.ReportContent]:
    return report_pages.write_page(tmp_path_factory.mktemp("page"))


@pytest.fixture(scope="module")
def page(made: tuple[Path, report.ReportContent]) -> Path:
    return made[0]


@pytest.fixture(scope="module")
def content(made: tuple[Path, report.ReportContent]) -> report.ReportContent:
    return made[1]


# --- the file -------------------------------------------------------------------------------------------------------


class Reader(HTMLParser):
    """Collects what a page refers to, its ids, tags, images, headings, and the text that a reader sees."""

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
        if self.cdata_elem is None:
            self.text += data


def read(html: str) -> Reader:
    reader = Reader()
    reader.feed(html)
    return reader


def plain(text: str) -> str:
    return text.replace("\N{NO-BREAK SPACE}", " ")


def test_nothing_comes_from_outside(page: Path) -> None:
    reader = read(page.read_text(encoding="utf-8"))
    assert reader.references
    assert all(reference.startswith(("data:", "#")) for reference in reader.references)
    assert not {"link", "iframe", "object", "embed", "base"} & set(reader.tags)


def test_links_have_a_target_and_ids_are_unique(page: Path) -> None:
    reader = read(page.read_text(encoding="utf-8"))
    assert len(reader.ids) == len(set(reader.ids))
    assert {r[1:] for r in reader.references if r.startswith("#")} <= set(reader.ids)


def test_every_drawn_figure_is_described(page: Path, content: report.ReportContent) -> None:
    images = read(page.read_text(encoding="utf-8")).images
    assert [image["alt"] for image in images] == [
        figure.alt for kind in ("findings", "curves") for figure in content.figures[kind]
    ]
    kinds = [str(image["src"]).split(";")[0] for image in images]
    assert kinds == ["data:image/svg+xml", "data:image/svg+xml", "data:image/png"]


def test_the_answer_comes_first_then_the_table_then_further_sentences(
    page: Path, content: report.ReportContent
) -> None:
    text = plain(read(page.read_text(encoding="utf-8")).text)
    order = [text.index(part) for part in (content.answer, content.headline_caption, *content.sentences)]
    assert order == sorted(order)
    assert text.rindex(content.title) < order[0]


def cells(*tables: Table) -> list[str]:
    return [line for table in tables for row in table.rows for cell in row for line in cell.split("\n")]


def test_tables_are_whole(page: Path, content: report.ReportContent) -> None:
    text = plain(read(page.read_text(encoding="utf-8")).text)
    tables = (
        content.headline, content.others, content.verdicts, content.knees, content.differences, content.costs,
        content.provenance,
    )  # fmt: skip
    assert all(len(row) == len(table.columns) for table in tables for row in table.rows)
    assert all(line in text for line in cells(*tables))


def test_the_verdicts_are_counted_in_the_answer_and_stand_before_the_figures(
    page: Path, content: report.ReportContent
) -> None:
    assert content.answer.endswith("Of 4 tests of 3 claims 1 holds, 1 does not hold and 2 are undecided.")
    text = plain(read(page.read_text(encoding="utf-8")).text)
    assert text.index("Further curves") < text.index("Claims and verdicts") < text.index(content.sentences[0])


def test_headings_do_not_skip_a_level(page: Path) -> None:
    levels = [int(tag[1]) for tag in read(page.read_text(encoding="utf-8")).tags if tag in ("h1", "h2", "h3", "h4")]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(later <= earlier + 1 for earlier, later in pairwise(levels))


def test_a_hostile_name_is_only_text(tmp_path: Path) -> None:
    path, _ = report_pages.write_page(tmp_path, HOSTILE)
    html = path.read_text(encoding="utf-8")
    reader = read(html)
    # The data, the library and the page's own script.
    assert reader.tags.count("script") == 3
    assert HOSTILE in reader.text
    start = html.index('id="report-data">') + len('id="report-data">')
    data = json.loads(html[start : html.index("</script>", start)])
    assert HOSTILE in {curve["model"] for curve in data["curves"]}


def test_json_in_a_page_reads_back_and_ends_no_element() -> None:
    value = {"name": HOSTILE, "line": "\u2028\u2029", "numbers": [1, None, 0.25]}
    text = report_data.as_json(value)
    assert not set("<>&\u2028\u2029") & set(text)
    assert json.loads(text) == value


def test_an_empty_study_still_renders(content: report.ReportContent) -> None:
    empty = Table(("Model",), ())
    html = report.render_report(
        report.TEMPLATE,
        report.ReportContent(
            "t", "s", "a", empty, "c", empty, "n", (), (), {}, empty, empty, empty, empty, empty, {}, "", "", False,
            False,
        ),
        {},
    )  # fmt: skip
    assert html.count("nothing to show") == 5
    assert "Findings" not in html


def test_the_policy_allows_these_scripts_and_no_others(page: Path) -> None:
    policy = report.content_policy("a { }", ("one", "two"))
    assert "unsafe" not in policy and policy.startswith("default-src 'none'")
    # printf 'one' | openssl dgst -sha256 -binary | base64
    assert "'sha256-dpLDrTVAu4A8Ags67mbNiIcSMjTqDG5xQ8Ct1z/0Me0='" in policy
    assert "unsafe" not in page.read_text(encoding="utf-8").split("</head>")[0]


# --- the page in a browser ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with driven() as started:
        yield started


def opened(browser: Any, page: Path, screen: str = "desktop", **settings: Any) -> Any:
    """Open the page and wait for its figures; what the console says is collected in ``said``."""
    width, height = SCREENS[screen]
    tab = browser.new_context(viewport={"width": width, "height": height}, offline=True, **settings).new_page()
    tab.said = []
    tab.on("console", lambda message: tab.said.append(f"{message.type}: {message.text}"))
    tab.on("pageerror", lambda error: tab.said.append(f"error: {error}"))
    tab.goto(page.as_uri())
    if settings.get("java_script_enabled", True):
        for name in ("curve", "map", "emergence", "weights"):
            tab.wait_for_selector(f"#{name}-chart svg")
    return tab


@pytest.fixture(scope="module")
def tab(browser: Any, page: Path) -> Any:
    return opened(browser, page)


def symbols(tab: Any) -> int:
    """Count the dots of the curves."""
    return int(tab.locator("#curve-chart .mark-symbol").first.locator("path").count())


@needs_chromium
def test_the_console_is_silent(tab: Any) -> None:
    assert tab.said == []
    assert "js" in tab.evaluate("document.documentElement.className")


@needs_chromium
def test_the_policy_holds_and_the_figures_need_no_more(browser: Any, page: Path) -> None:
    tab = opened(browser, page)
    # Later, since the policy does not hold for what the driver itself evaluates.
    later = (
        "new Promise((say) => setTimeout(() => { try { say(Function('return 1')()); } catch (e) { say(e.name); } }))"
    )
    assert tab.evaluate(later) == "EvalError"
    tab.evaluate("document.body.append(Object.assign(document.createElement('script'), {textContent: 'ran = true'}))")
    assert tab.evaluate("typeof ran") == "undefined"
    tab.context.close()


@needs_chromium
def test_choosing_methods_changes_the_marks_and_the_table(tab: Any) -> None:
    assert symbols(tab) == tab.locator("#levels tbody tr").count() == 3 * 9
    tab.get_by_label("global random").uncheck()
    tab.wait_for_function("document.querySelectorAll('#levels tbody tr').length === 18")
    tab.wait_for_function("document.querySelector('#curve-chart .mark-symbol').querySelectorAll('path').length === 18")
    assert "2 of 3 methods" in tab.locator("#curve-status").inner_text()
    tab.get_by_label("global random").check()
    tab.wait_for_function("document.querySelector('#curve-chart .mark-symbol').querySelectorAll('path').length === 27")


@needs_chromium
def test_choosing_a_model_offers_its_tasks_and_checkpoints(tab: Any) -> None:
    tab.get_by_label("Model").first.select_option(frames.BERT)
    tab.wait_for_function("document.querySelectorAll('#levels tbody tr').length === 14")
    assert tab.locator("#curve-task option").all_inner_texts() == ["plot or review"]
    assert tab.locator("#curve-checkpoint option").all_inner_texts() == ["step 0", "step 3,000"]
    assert tab.locator("#curve-checkpoint").input_value() == "step003000"
    assert tab.locator("#curve-axis option").all_inner_texts() == ["linear", "close-up of the dense value"]
    assert "(%)" in tab.locator("#levels thead").inner_text()
    tab.locator("#curve-model").select_option(frames.SMOLLM)
    tab.wait_for_function("document.querySelectorAll('#levels tbody tr').length === 27")


def axis_labels(tab: Any) -> list[str]:
    return list(tab.locator("#curve-chart .role-axis-label").last.locator("text").all_text_contents())


@needs_chromium
def test_the_vertical_axis_is_logarithmic_or_linear(tab: Any) -> None:
    assert tab.locator("#curve-axis").input_value() == "logarithmic"
    logarithmic = axis_labels(tab)
    assert "100" in logarithmic and "10k" in logarithmic
    tab.locator("#curve-axis").select_option("linear")
    tab.wait_for_function("document.querySelector('#curve-chart').textContent.includes('linear axis')")
    assert "1,000,000" in axis_labels(tab)
    tab.locator("#curve-axis").select_option("logarithmic")
    tab.wait_for_function("document.querySelector('#curve-chart').textContent.includes('logarithmic axis')")


@needs_chromium
def test_pointing_at_a_level_gives_its_values(tab: Any) -> None:
    tab.locator("#curve-chart").scroll_into_view_if_needed()
    tab.locator("#curve-chart .mark-symbol").first.locator("path").nth(7).hover()
    tooltip = tab.locator("#vg-tooltip-element.visible")
    tooltip.wait_for()
    shown = tooltip.inner_text()
    row = tab.locator("#levels tbody tr").nth(7).locator("td").all_inner_texts()
    assert all(text in shown for text in (row[0], f"{row[1]} %", row[2], f"{row[3]} to {row[4]}"))


@needs_chromium
def test_pointing_at_a_knee_gives_it_with_its_interval_and_levels(tab: Any, content: report.ReportContent) -> None:
    tab.locator("#curve-chart").scroll_into_view_if_needed()
    knee = tab.locator("#curve-chart .mark-symbol").last.locator("path").first
    # A stroke has no area that a driver could hover over by itself.
    middle = "(e) => { const b = e.getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height / 2]; }"
    tab.mouse.move(*knee.evaluate(middle))
    tab.wait_for_function("document.querySelector('#vg-tooltip-element.visible')?.textContent.includes('Rule')")
    shown = tab.locator("#vg-tooltip-element").inner_text()
    assert all(text in shown for text in ("global magnitude", "(levels 10 and 15 %)", "tolerance"))
    assert content.headline.rows[0][3].split("\n")[0] in shown


@needs_chromium
def test_a_knee_that_is_missing_has_its_reason_below_the_choices(tab: Any) -> None:
    knees = frames.knees()
    missing = knees[knees["seed"].isna() & knees["knee"].isna() & (knees["model"] == frames.BERT)]
    row = missing[missing["checkpoint"] == "step000000"].iloc[0]
    tab.locator("#curve-model").select_option(frames.BERT)
    tab.locator("#curve-checkpoint").select_option(row["checkpoint"])
    tab.locator("#curve-rule").select_option(row["rule"])
    assert f"{frames.METHOD_LABELS[row['method']]} ({row['flags']})" in tab.locator("#curve-status").inner_text()
    tab.locator("#curve-rule").select_option("tolerance")
    tab.locator("#curve-model").select_option(frames.SMOLLM)
    tab.wait_for_function("document.querySelectorAll('#levels tbody tr').length === 27")


@needs_chromium
def test_the_slider_changes_the_map_by_keyboard(tab: Any) -> None:
    cells = "#map-chart .mark-rect.role-mark path"
    fills = f"[...document.querySelectorAll('{cells}')].map((cell) => cell.getAttribute('fill')).join()"
    assert tab.locator(cells).count() == 7 * 30
    # The highest level within the knee, which the first table gives.
    assert "10 %" in tab.locator("#map-level-text").inner_text()
    before = tab.evaluate(fills)
    tab.locator("#map-level").focus()
    tab.keyboard.press("End")
    assert "50 %" in tab.locator("#map-level-text").inner_text()
    tab.wait_for_function(f"{fills} !== {json.dumps(before)}")


@needs_chromium
def test_the_table_below_the_plot_can_be_kept(tab: Any) -> None:
    with tab.expect_download() as download:
        tab.get_by_role("button", name="Download the table above").click()
    text = Path(download.value.path()).read_text(encoding="utf-8")
    assert download.value.suggested_filename == "default-levels.csv"
    head, *rows = list(csv.reader(io.StringIO(text)))
    shown = [line.locator("td").all_inner_texts() for line in tab.locator("#levels tbody tr").all()]
    assert head[:5] == ["Model", "Checkpoint", "Task", "Method", "Sparsity (%)"]
    assert [row[3:] for row in rows] == shown
    assert {tuple(row[:3]) for row in rows} == {(frames.SMOLLM, "final", "film plots")}


@needs_chromium
def test_every_link_leads_to_a_place_on_the_page(tab: Any) -> None:
    links = tab.locator("nav a").all()
    assert len(links) == 10
    for link in links:
        target = str(link.get_attribute("href"))
        link.click()
        assert tab.evaluate("location.hash") == target
        assert tab.locator(target).is_visible()
    assert tab.said == []


@needs_chromium
@pytest.mark.parametrize("screen", SCREENS)
def test_the_first_screen_holds_the_answer_and_the_table(browser: Any, page: Path, screen: str) -> None:
    tab = opened(browser, page, screen)
    width, height = SCREENS[screen]
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    # A telephone shows the table as cards, the first two of them at once.
    table = "#headline" if screen == "desktop" else "#headline tbody tr:nth-child(2)"
    for selector in ("h1", "#answer", table):
        box = tab.locator(selector).bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= width
        assert box["y"] >= 0 and box["y"] + box["height"] <= height
    assert tab.said == []
    tab.context.close()


@needs_chromium
@pytest.mark.parametrize("screen", SCREENS)
def test_axe_finds_no_serious_fault(browser: Any, page: Path, screen: str) -> None:
    from axe_playwright_python.sync_playwright import Axe

    tab = opened(browser, page, screen, bypass_csp=True)
    tab.locator("details summary").first.click()
    found = Axe().run(tab).response["violations"]
    serious = [
        (fault["id"], [node["target"] for node in fault["nodes"]])
        for fault in found
        if fault["impact"] in ("serious", "critical")
    ]
    assert serious == []
    tab.context.close()


@needs_chromium
def test_a_keyboard_reaches_every_choice(browser: Any, page: Path) -> None:
    tab = opened(browser, page)
    reached = []
    for _ in range(60):
        tab.keyboard.press("Tab")
        reached.append(tab.evaluate("document.activeElement.id || document.activeElement.className"))
    assert reached[0] == "skip"
    choices = [f"curve-{name}" for name in ("model", "task", "checkpoint", "rule", "axis")] + ["map-level"]
    assert [name for name in dict.fromkeys(reached) if name in choices] == choices
    tab.context.close()


@needs_chromium
def test_paper_shows_the_drawn_figures(browser: Any, page: Path) -> None:
    tab = opened(browser, page)
    assert not any(image.is_visible() for image in tab.locator(".static img").all())
    assert all(image.is_visible() for image in tab.locator("#verdicts-section img").all())
    tab.emulate_media(media="print")
    assert all(image.is_visible() for image in tab.locator(".static img").all())
    assert not tab.locator("#curve-chart").is_visible()
    document = tab.pdf()
    # Of the two drawn figures one is a bitmap, which a PDF keeps as an image.
    assert document.startswith(b"%PDF") and document.count(b"/Subtype /Image") >= 1
    tab.context.close()


@needs_chromium
def test_without_scripts_the_drawn_figures_stand_in(browser: Any, page: Path, content: report.ReportContent) -> None:
    tab = opened(browser, page, java_script_enabled=False)
    assert [image.is_visible() for image in tab.locator(".static img").all()] == [True, True]
    assert not tab.locator("#curve-chart").is_visible()
    assert not any(button.is_visible() for button in tab.locator("button").all())
    assert content.answer in plain(tab.locator("main").inner_text())
    tab.context.close()
