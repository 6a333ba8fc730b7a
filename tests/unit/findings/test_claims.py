"""Claims are checked before anything runs: each mistake is named with its place and the mend."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import frames
import tiny
from essential_sparsity.errors import UserError
from essential_sparsity.files import canonical
from essential_sparsity.findings.claims import Claim, Part, Region, ValueDifference, parts_of
from essential_sparsity.findings.tables import ALL_FINDINGS
from essential_sparsity.records import plain
from essential_sparsity.report.figures.findings import panels_of, plot_findings
from essential_sparsity.report.gathered import findings_markdown, gather_findings
from essential_sparsity.report.words.verdicts import estimate_text, models_text, subject_text, verdicts_sentence
from essential_sparsity.study.resolve import resolve
from essential_sparsity.study.study import Study

CURVE = {"models": ["tiny-bert"], "method": "magnitude-global", "task": "tiny-kind"}


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Study]:
    """Plans the tiny study with one claim, whose keys are given."""
    folder = tmp_path_factory.mktemp("claims")
    base = tiny.study(folder)
    for model in base["registries"]["models"].values():
        if model["source"]["kind"] == "path":
            model["source"]["path"] = str(folder / model["source"]["path"])
    for dataset in base["registries"]["datasets"].values():
        dataset["source"]["path"] = str(folder / dataset["source"]["path"])

    def plan(*claims: dict[str, Any], **other: Any) -> Study:
        common = {"finding": "f", "claim": "c", "holds": {"above": 0}}
        config = {**base, "findings": [{**common, **claim} for claim in claims], **other}
        return resolve(config, tiny.ROOT, "study.yaml")

    return plan


def test_rules_and_defaults_are_filled_in(planned: Callable[..., Study]) -> None:
    study = planned(
        {"statistic": "knee", "of": CURVE},
        {"statistic": "slope-ratio", "of": {**CURVE, "models": ["tiny-bert"]}},
        {"statistic": "value-difference", "of": {"one": CURVE, "levels": [0.5]}},
        scale="paper",
    )
    knee, slopes, values = (claim.of for claim in study.claims)
    assert plain(knee) == {**CURVE, "checkpoint": "last", "rule": "tolerance"}
    assert isinstance(slopes, Part)
    assert slopes.rule == "two-segment"
    assert isinstance(values, ValueDifference)
    assert (values.one.rule, values.over, values.relative, values.pairing) == ("tolerance", "mean", "none", "none")
    (part,) = parts_of(knee)
    assert part.places({"tiny-bert": "step000012"}) == [("tiny-bert", "step000012", "magnitude-global", "tiny-kind")]


def test_a_study_makes_no_claim_unless_it_says_so(planned: Callable[..., Study]) -> None:
    study = planned()
    assert study.claims == [] and study.config["scale"] == "desk"


GROUP = {"models": ["tiny-bert"], "checkpoint": "last"}


@pytest.mark.parametrize(
    ("claim", "where", "says"),
    [
        ({"of": {**CURVE, "models": ["tiny-bort"]}}, "findings[0].of.models", "write 'tiny-bert'"),
        ({"of": {**CURVE, "method": "magnitude-layer"}}, "of.method", "'magnitude-global', 'random-global'"),
        ({"of": {**CURVE, "task": "tiny-perplexity"}}, "of.task", "one of 'tiny-kind'"),
        ({"of": {**CURVE, "checkpoint": "step000013"}}, "of.checkpoint", "write 'step000012'"),
        ({"of": {**CURVE, "checkpoint": "step000004"}}, "of.checkpoint", "'step000012'"),
        ({"of": {**CURVE, "methods": ["random-global"]}}, "of.methods", "write 'method'"),
        ({"of": {"models": ["tiny-bert"], "task": "tiny-kind"}}, "findings[0].of", "add 'method:'"),
        ({"statistic": "slope"}, "findings[0].statistic", "write 'slope-ratio'"),
        ({"holds": {}}, "findings[0].holds", "'above', 'below' and 'within'"),
        ({"holds": {"above": 1, "below": 2}}, "findings[0].holds", "found 'above', 'below'"),
        ({"holds": {"within": [2, 1]}}, "findings[0].holds.within", "the smaller first"),
        ({"statistic": "value-difference", "of": {"one": CURVE, "levels": [0.7]}}, "levels[0]", "'0.500', '0.900'"),
        ({"statistic": "value-difference", "of": {"one": CURVE, "levels": "all"}}, "of.levels", "essential"),
        ({"statistic": "value-difference", "of": {"one": CURVE, "levels": "essential"}}, "of.reference", "the curve"),
        (
            {"statistic": "value-difference", "of": {
                "one": CURVE, "levels": [0.5], "other": {
                    "models": ["tiny-llama"], "method": "magnitude-global", "task": "tiny-perplexity"}}},
            "of.other.task", "compare knees",
        ),
        (
            {"statistic": "knee-difference", "of": {
                "one": CURVE, "other": {**CURVE, "models": ["tiny-bert", "tiny-llama"]}, "pairing": "in-order"}},
            "of.pairing", "as many models",
        ),
        ({"of": {**CURVE, "models": ["tiny-bert", "tiny-bert"]}}, "of.models", "non-unique"),
        (
            {"statistic": "abrupt-change", "of": {"models": ["tiny-llama"], "column": "hoyer"}},
            "of.models[0]", "weights",
        ),
        (
            {"statistic": "weight-statistic-difference", "of": {"one": GROUP, "other": GROUP, "column": "hoier"}},
            "of.column", "write 'hoyer'",
        ),
        (
            {"statistic": "rank-correlation", "of": {
                "models": ["tiny-bert"], "method": "magnitude-global", "difficulty": {"tiny-kind": 1, "rte": 2}}},
            "of.task", "'rte'",
        ),
        ({"statistic": "variance-share", "of": {"factor": "task", "methods": ["dense"]}}, "of.methods[0]", "'dense'"),
        (
            {"statistic": "mask-similarity", "of": {
                "models": ["tiny-bert"], "methods": ["magnitude-global", "random-global"], "levels": [0.5]}},
            "of.methods[0]", "similarities",
        ),
    ],
)  # fmt: skip
def test_mistakes_are_named(planned: Callable[..., Study], claim: dict[str, Any], where: str, says: str) -> None:
    with pytest.raises(UserError) as error:
        planned({"statistic": "knee", "of": CURVE, **claim})
    assert where in error.value.where
    assert says in str(error.value)


def test_rows_of_a_finding_share_its_claim_and_differ(planned: Callable[..., Study]) -> None:
    knee = {"statistic": "knee", "of": CURVE}
    with pytest.raises(UserError, match="another claim of 'f' than before"):
        planned(knee, {**knee, "claim": "other"})
    with pytest.raises(UserError, match="the same `of`"):
        planned(knee, knee)


# --- several studies ------------------------------------------------------------------------------------------------


def test_the_findings_of_studies_are_put_together(tmp_path: Path) -> None:
    found = frames.findings()
    for study in ("second", "first"):
        found.assign(study=study).to_parquet(tmp_path / f"{study}.parquet")
    paths = [tmp_path / f"{study}.parquet" for study in ("second", "first")]
    together = gather_findings(paths)
    assert ALL_FINDINGS.typed(together).groupby("finding")["study"].agg(list).to_dict() == {
        "essential-sparsity": ["first", "first", "second", "second"],
        "magnitude": ["first", "second"],
        "tasks": ["first", "second"],
    }
    text = findings_markdown(together)
    assert text.startswith("Of 8 tests of 3 claims")
    assert [line.count("|") for line in text.splitlines()[2:]] == [7] * (2 + len(together))
    with pytest.raises(UserError, match="two of the study 'first'"):
        gather_findings([*paths, paths[1]])
    frames.costs().to_parquet(tmp_path / "costs.parquet")
    with pytest.raises(UserError, match="expected a table of findings"):
        gather_findings([tmp_path / "costs.parquet"])


# --- words and figures ----------------------------------------------------------------------------------------------


def test_verdicts_are_counted() -> None:
    found = frames.findings()
    assert verdicts_sentence(found) == "Of 4 tests of 3 claims 1 holds, 1 does not hold and 2 are undecided."
    assert verdicts_sentence(found[2:]) == "Of 2 claims 1 does not hold and 1 is undecided."
    assert verdicts_sentence(found[:0]) == ""


def test_open_intervals_and_missing_estimates_in_words() -> None:
    texts = [estimate_text(row) for row in frames.findings().to_dict("records")]
    assert texts == ["unbounded (6.1 or more)", "3.4 (1.2 to 9.7)", "-0.03 (-0.05 to -0.01)", "none"]


def test_a_comparison_is_named_by_what_differs() -> None:
    text = subject_text(frames.findings()["of"][2], frames.METHOD_LABELS, frames.TASK_LABELS)
    assert text == f"global magnitude minus global random, {frames.BERT}, plot or review"


def test_curves_of_a_model_share_a_panel_and_tasks_do_not() -> None:
    claims, last = frames.claims(), {frames.SMOLLM: "final", frames.BERT: "step003000"}
    panels = panels_of(claims, last)
    assert [[place[2] for place in panel] for panel in panels] == [
        ["magnitude-global"], ["magnitude-global", "random-global"],
    ]  # fmt: skip
    assert [panel[0][3] for panel in panels] == [frames.PLOTS, frames.GENRE]


def test_a_figure_shows_every_estimate_over_its_region() -> None:
    last = {frames.SMOLLM: "final", frames.BERT: "step003000"}
    figure = plot_findings(
        frames.findings(), frames.claims(), frames.levels(), frames.knees(), last, frames.METHOD_LABELS,
        frames.TASK_LABELS,
    )  # fmt: skip
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    # Two panels of curves, and an axis for each statistic with its region.
    assert titles[2:] == [
        "Slope of the loss beyond the knee over that before it: holds above 2",
        "Difference of knees: holds above 0",
        "Share in the variance of knees: holds from 0.5 to 1",
    ]
    slopes = figure.axes[2]
    assert [label.get_text().split(",")[0] for label in slopes.get_yticklabels()] == [frames.SMOLLM, frames.BERT]
    marks = {line.get_marker() for line in slopes.lines} - {"None", ">"}
    # A shape for each verdict, not a colour alone.
    assert marks == {"o", "s"}


def test_one_level_is_no_curve() -> None:
    last = {frames.SMOLLM: "final", frames.BERT: "step003000"}
    levels = frames.levels()
    one = levels[
        (levels["model"] != frames.SMOLLM) | (levels["sparsity"] <= levels["sparsity"][levels["sparsity"] > 0].min())
    ]
    figure = plot_findings(
        frames.findings(), frames.claims(), one, frames.knees(), last, frames.METHOD_LABELS, frames.TASK_LABELS
    )
    assert [axes.get_xlabel() for axes in figure.axes].count("Sparsity (% removed)") == 1


def test_a_group_of_models_is_named_by_what_its_names_have_in_common() -> None:
    assert models_text(["bert-mini", "bert-mini-1", "bert-mini-2"]) == "3\xa0\xd7\xa0bert-mini"
    assert models_text(["bert-mini-1"]) == "bert-mini-1"
    assert models_text(["bert-base", "bert-large"]) == "bert-base, bert-large"
    assert models_text(["a", "b", "c", "d"]) == "a and 3 more"


def test_of_a_group_the_mean_is_drawn_and_each_model_thinly() -> None:
    curve = {"checkpoint": "last", "method": "magnitude-global", "task": frames.GENRE, "rule": "tolerance"}
    names = [frames.BERT, f"{frames.BERT}-1"]
    levels = frames.levels().query("model == @frames.BERT and checkpoint == 'step003000'")
    other = levels.assign(model=names[1], value=levels["value"] - 0.1 * levels["sparsity"])
    of = {**curve, "models": names}
    claim = Claim("f", "c", "knee", Part(**of), Region(above=0.1))
    row = {
        "finding": "f", "claim": "c", "statistic": "knee", "of": canonical(of), "estimate": 0.5, "ci_low": 0.2,
        "ci_high": 0.8, "n_seeds": 2, "verdict": "holds", "holds_where": "above 0.1", "flags": "",
    }  # fmt: skip
    figure = plot_findings(
        pd.DataFrame([row]), [claim], pd.concat([levels, other]), frames.knees(), dict.fromkeys(names, "step003000"),
        frames.METHOD_LABELS, frames.TASK_LABELS,
    )  # fmt: skip
    lines = [line for line in figure.axes[0].lines if len(line.get_xdata()) > 2]
    thin, mean = lines[:-1], lines[-1]
    assert len(thin) == 2 and all(line.get_linewidth() < mean.get_linewidth() for line in thin)
    np.testing.assert_allclose(mean.get_ydata(), np.mean([line.get_ydata() for line in thin], axis=0))
    assert mean.get_label() == f"2\xa0\xd7\xa0{frames.BERT}, global magnitude (mean)"


def test_judging_needs_no_torch() -> None:
    check = "import sys, judge_findings; print({'torch', 'transformers', 'sklearn', 'matplotlib'} & set(sys.modules))"
    folder = tiny.ROOT / "workflow" / "scripts"
    found = subprocess.run([sys.executable, "-c", check], cwd=folder, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"
