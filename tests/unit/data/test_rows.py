"""Datasets: what the registry asks of a table is what comes out, and what the table lacks is named."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import entries
from essential_sparsity.data.kinds import Dataset
from essential_sparsity.data.rows import prepare_rows
from essential_sparsity.data.tables import hold_out
from essential_sparsity.data.texts import balance_classes, sentences
from essential_sparsity.errors import UserError

WHERE = "config/datasets.yaml, mine"


def films(n: int = 60) -> pd.DataFrame:
    """Two kinds of text about ten films; the third kind is rare; one text is missing."""
    return pd.DataFrame(
        {
            "body": [f"Text {i} begins. It goes on! Does it end?" if i else None for i in range(n)],
            "kind": ["plot" if i % 3 else "fresh" for i in range(n)],
            "film": [f"film {i % 10}" for i in range(n)],
            "year": [1990 + i % 2 for i in range(n)],
        }
    )


def dataset(**more: Any) -> Dataset:
    return entries.dataset(**{"text": "body"} | more)


SPLIT: dict[str, Any] = {"group": "film", "test_fraction": 0.3, "seed": 0}


def prepare(folder: Path, frame: pd.DataFrame | None = None, **more: Any) -> pd.DataFrame:
    path = folder / "t.csv"
    (films() if frame is None else frame).to_csv(path, index=False)
    return prepare_rows({"train": [path]}, dataset(**more), WHERE)


def test_rows_have_the_declared_columns(tmp_path: Path) -> None:
    rows = prepare(tmp_path)
    assert list(rows.columns) == ["id", "split", "text", "label"]
    assert rows["id"].tolist() == list(range(59)), "the row without a text is gone"
    assert rows["label"].isna().all()
    assert set(rows["split"]) == {"train"}
    assert rows["text"].tolist() == films()["body"].dropna().tolist()


@pytest.mark.parametrize(("file_format", "suffix"), [("csv", ".csv.bz2"), ("jsonl", ".jsonl.gz"), ("parquet", ".pq")])
def test_every_format_gives_the_same_rows(tmp_path: Path, file_format: str, suffix: str) -> None:
    path = tmp_path / f"t{suffix}"
    frame = films()
    {"csv": lambda: frame.to_csv(path, index=False), "parquet": lambda: frame.to_parquet(path),
     "jsonl": lambda: frame.to_json(path, orient="records", lines=True)}[file_format]()  # fmt: skip
    entry = dataset(format=file_format, label="kind", split=SPLIT)
    pd.testing.assert_frame_equal(
        prepare_rows({"train": [path]}, entry, WHERE), prepare(tmp_path, label="kind", split=SPLIT), check_dtype=False
    )


@pytest.mark.parametrize("file_format", ["csv", "jsonl", "parquet"])
def test_a_file_of_another_format_is_named(tmp_path: Path, file_format: str) -> None:
    path = tmp_path / "t.gz"
    path.write_bytes(b"\x00\xff\x00garbage")
    with pytest.raises(UserError, match=rf"{WHERE}, file t\.gz.*cannot be read as {file_format}"):
        prepare_rows({"train": [path]}, dataset(format=file_format), WHERE)


@settings(deadline=None, derandomize=True)
@given(st.lists(st.text("abc", max_size=2), min_size=1, max_size=40), st.floats(0, 1), st.integers(0, 5))
def test_no_group_is_in_both_splits(groups: list[str], fraction: float, seed: int) -> None:
    frame = pd.DataFrame({"group": groups})
    frame["split"] = hold_out(frame["group"], {"test": fraction}, seed)
    assert frame.groupby("group")["split"].nunique().max() == 1
    held_out = frame.loc[frame["split"] == "test", "group"].nunique()
    assert held_out == round(fraction * frame["group"].nunique())


def test_the_split_does_not_depend_on_the_order_of_the_rows() -> None:
    groups = pd.Series([f"g{i}" for i in range(30)])
    one = hold_out(groups, {"test": 0.3}, 1)
    other = hold_out(groups.sample(frac=1, random_state=0), {"test": 0.3}, 1).sort_index()
    pd.testing.assert_series_equal(one, other)
    assert not hold_out(groups, {"test": 0.3}, 2).equals(one), "the seed matters"


def test_rows_without_a_group_stay_together(tmp_path: Path) -> None:
    frame = films()
    frame.loc[frame["film"] == "film 3", "film"] = None
    rows = prepare(tmp_path, frame, split=SPLIT)
    kept = frame.dropna(subset=["body"]).reset_index(drop=True)
    assert rows.loc[kept["film"].isna(), "split"].nunique() == 1


def test_a_film_of_the_test_is_never_trained_on(tmp_path: Path) -> None:
    rows = prepare(tmp_path, label="kind", split=SPLIT)
    film = dict(zip(films()["body"], films()["film"], strict=True))
    assert rows.assign(film=rows["text"].map(film)).groupby("film")["split"].nunique().max() == 1
    assert set(rows["split"]) == {"train", "test"}


def test_sentences_end_at_closing_punctuation() -> None:
    assert sentences("A hero leaves. She returns! Why? Nobody knows") == [
        "A hero leaves.", "She returns!", "Why?", "Nobody knows",
    ]  # fmt: skip
    assert sentences("It cost 3.50 in the U.S. in 1990, e.g. at sea.") == [
        "It cost 3.50 in the U.S. in 1990, e.g. at sea."
    ]
    assert sentences('He said "Go." Then he left. (She stayed.) End') == [
        'He said "Go."', "Then he left.", "(She stayed.)", "End",
    ]  # fmt: skip
    assert sentences("  ") == []


@settings(deadline=None, derandomize=True)
@given(
    st.lists(
        st.sampled_from(["Go.", "stop", "He said 3.5!", "Why?", "(yes)", "A", '"Go."', "[Yes!]", "'No?'"]), max_size=12
    )
)
def test_splitting_into_sentences_loses_no_word(words: list[str]) -> None:
    text = " ".join(words)
    assert " ".join(sentences(text)).split() == text.split()
    assert all(s == s.strip() and s for s in sentences(text))


def test_only_the_named_classes_are_split_into_sentences(tmp_path: Path) -> None:
    rows = prepare(tmp_path, label="kind", split=SPLIT, sentences={"classes": ["plot"], "per_text": 2})
    plots, reviews = (rows[rows["label"] == kind]["text"] for kind in ("plot", "fresh"))
    assert len(plots) == 2 * (films()["kind"] == "plot").sum()
    assert not plots.str.contains("Does it end").any(), "the third sentence is left out"
    assert reviews.str.endswith("Does it end?").all()


def test_the_words_of_a_text_are_counted(tmp_path: Path) -> None:
    frame = pd.DataFrame({"body": [" ".join(["w"] * n) for n in range(1, 9)]})
    rows = prepare(tmp_path, frame, words=[3, 5])
    assert [len(t.split()) for t in rows["text"]] == [3, 4, 5]


@settings(deadline=None, derandomize=True, max_examples=40)
@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from(["train", "test"])), min_size=1), st.integers(0, 3))
def test_balance_draws_equally_many_of_each_class(pairs: list[tuple[str, str]], seed: int) -> None:
    frame = pd.DataFrame(pairs, columns=["label", "split"]).assign(text=[str(i) for i in range(len(pairs))])
    drawn = balance_classes(frame, seed)
    for split, rows in frame.groupby("split"):
        fewest = rows["label"].value_counts().min()
        counts = drawn.loc[drawn["split"] == split, "label"].value_counts()
        assert (counts == fewest).all()
        assert set(counts.index) == set(rows["label"])
    assert drawn["text"].is_unique
    pd.testing.assert_frame_equal(drawn, balance_classes(frame, seed))


def test_balance_through_the_registry(tmp_path: Path) -> None:
    rows = prepare(tmp_path, label="kind", split=SPLIT, balance=True, seed=3)
    counts = rows.groupby("split")["label"].value_counts().unstack()
    assert (counts["plot"] == counts["fresh"]).all()


def test_values_are_renamed_to_classes(tmp_path: Path) -> None:
    rows = prepare(tmp_path, label="kind", classes={"plot": "story", "fresh": "review"}, split=SPLIT)
    assert set(rows["label"]) == {"story", "review"}
    assert (rows["label"] == "story").sum() == (films()["kind"] == "plot").sum()


def test_rows_without_a_class_are_left_out(tmp_path: Path) -> None:
    frame = films()
    frame.loc[5:14, "kind"] = None
    rows = prepare(tmp_path, frame, label="kind", split=SPLIT)
    assert rows["label"].notna().all()
    assert len(rows) == 60 - 1 - 10


@pytest.mark.parametrize(("column", "values", "kept"), [("kind", ["fresh"], 19), ("year", ["1990"], 29)])
def test_where_keeps_the_rows_with_these_values(tmp_path: Path, column: str, values: list[str], kept: int) -> None:
    # A column of numbers too: the registry's values are text.
    assert len(prepare(tmp_path, where={column: values})) == kept


@pytest.mark.parametrize(
    ("entry", "place", "wrong", "right"),
    [
        ({"text": "boody"}, ".text", "boody", "body"),
        ({"label": "knd", "split": SPLIT}, ".label", "knd", "kind"),
        ({"split": {**SPLIT, "group": "flim"}}, ".split.group", "flim", "film"),
        ({"where": {"knd": ["plot"]}}, ".where", "knd", "kind"),
        ({"where": {"kind": ["plt"]}}, ".where.kind", "plt", "plot"),
    ],
)
def test_what_the_data_do_not_have_is_answered_with_the_nearest(
    tmp_path: Path, entry: dict[str, Any], place: str, wrong: str, right: str
) -> None:
    with pytest.raises(UserError) as caught:
        prepare(tmp_path, **entry)
    assert caught.value.where == f"{WHERE}{place}"
    assert f"'{right}'" in caught.value.expected
    assert caught.value.mend == f"write '{right}' instead of '{wrong}'"


def test_a_label_without_a_class_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"{WHERE}\.classes, file t\.csv, row 0: found label 'fresh' in the data"):
        prepare(tmp_path, label="kind", classes={"plot": "story"}, split=SPLIT)


def test_one_class_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"split 'train': found 1 class\(es\) \('plot'\)"):
        prepare(tmp_path, label="kind", where={"kind": ["plot"]}, split=SPLIT)


def test_one_class_in_the_test_split_is_refused(tmp_path: Path) -> None:
    frame = pd.DataFrame({"body": ["a b", "c d", "e f"], "kind": ["x", "y", "x"], "film": ["1", "1", "2"]})
    split = {"group": "film", "test_fraction": 0.5, "seed": 0}
    for seed in range(4):  # whichever film is held out, one split has one class
        with pytest.raises(UserError, match=r"split '(test|train)': found 1 class"):
            prepare(tmp_path, frame.iloc[[0, 2]], label="kind", split={**split, "seed": seed})


@pytest.mark.parametrize(("fraction", "empty"), [(0.001, "'test'"), (0.999, "'train'")])
def test_an_empty_split_is_refused(tmp_path: Path, fraction: float, empty: str) -> None:
    # Nothing may be read from the other split instead.
    with pytest.raises(UserError, match=rf"\.split: found no row in {empty}.*another fraction"):
        prepare(tmp_path, split={**SPLIT, "test_fraction": fraction})


@pytest.mark.parametrize("more", [{}, {"label": "kind", "split": SPLIT, "balance": True}])
def test_filters_that_leave_nothing_are_refused(tmp_path: Path, more: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"no row that passes .*widen the filters"):
        prepare(tmp_path, words=[500, 900], **more)


def test_the_same_entry_gives_the_same_rows(tmp_path: Path) -> None:
    entry = {"label": "kind", "split": SPLIT, "balance": True, "words": [2, 40]}
    one, other = prepare(tmp_path, **entry), prepare(tmp_path, **json.loads(json.dumps(entry)))
    pd.testing.assert_frame_equal(one, other)


def test_datasets_of_one_source_hold_out_the_same_groups_whatever_they_leave_out(tmp_path: Path) -> None:
    # Each film has texts of one kind alone, so that a filter also takes away films.
    frame = pd.DataFrame(
        {"text": [f"text {i}" for i in range(80)], "kind": ["plot", "review"] * 40, "film": [str(i) for i in range(80)]}
    )
    frame.to_csv(tmp_path / "films.csv", index=False)
    entry = dataset(text="text", split=SPLIT)
    files = {"train": [tmp_path / "films.csv"]}
    every = prepare_rows(files, entry, "d").set_index("text")["split"]
    plots = prepare_rows(files, replace(entry, where={"kind": ["plot"]}), "d").set_index("text")["split"]
    assert len(plots) == 40
    assert (plots == every[plots.index]).all()


def test_a_misspelt_class_of_sentences_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"class 'plots', which no text has.*write 'plot'"):
        prepare(tmp_path, label="kind", split=SPLIT, sentences={"classes": ["plots"], "per_text": 2})


@pytest.mark.parametrize("name", ["films.csv.gz", "films.csv.xz", "films.csv.zip", "films.csv.bz2"])
def test_a_truncated_archive_is_named(tmp_path: Path, name: str) -> None:
    draw = random.Random(0)
    frame = pd.DataFrame({"text": [str(draw.random()) for _ in range(500)]})
    frame.to_csv(tmp_path / name, index=False)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=f"{name}: found a file that cannot be read as csv"):
        prepare_rows({"train": [tmp_path / name]}, dataset(text="text"), "d")


# --- Pairs, numbers, answers, images ---


def test_a_pair_keeps_its_second_text(tmp_path: Path) -> None:
    frame = films().assign(second=[f"second {i}" for i in range(60)])
    rows = prepare(tmp_path, frame, text_pair="second")
    assert rows["text_pair"].tolist() == [f"second {i}" for i in range(1, 60)], "row 0 has no text"


def test_numbers_are_kept_as_numbers_and_others_named(tmp_path: Path) -> None:
    frame = films().assign(grade=[str(i / 4) for i in range(60)])
    assert prepare(tmp_path, frame, score="grade")["score"].tolist() == [i / 4 for i in range(1, 60)]
    frame.loc[7, "grade"] = "good"
    with pytest.raises(UserError, match=r"score, file t\.csv, row 7: found 'good'.*expected a finite number"):
        prepare(tmp_path, frame, score="grade")


def squad(n: int = 6) -> pd.DataFrame:
    answers = [
        {"text": ["river"], "answer_start": [4]} if i % 2 else {"text": [], "answer_start": []} for i in range(n)
    ]
    return pd.DataFrame({"q": [f"what {i}?" for i in range(n)], "c": ["the river ran"] * n, "a": answers})


def test_answers_are_read_as_squad_lays_them_out(tmp_path: Path) -> None:
    entry = dataset(format="parquet", text="q", text_pair="c", answers="a")
    squad().to_parquet(tmp_path / "t.parquet")
    rows = prepare_rows({"train": [tmp_path / "t.parquet"]}, entry, WHERE)
    assert [list(x) for x in rows["answers"]] == [[], ["river"]] * 3
    assert [list(x) for x in rows["answer_starts"]] == [[], [4]] * 3
    with pytest.raises(UserError, match=r"answers, file t\.parquet, row 0: found 'what 0\?'.*SQuAD"):
        prepare_rows({"train": [tmp_path / "t.parquet"]}, replace(entry, answers="q"), WHERE)


@pytest.mark.parametrize("as_struct", [True, False])
def test_images_are_taken_as_the_hub_stores_them(tmp_path: Path, as_struct: bool) -> None:
    images = [b"one", b"two", b"three", b"four"]
    values = [{"bytes": image, "path": None} for image in images] if as_struct else images
    frame = pd.DataFrame({"img": values, "kind": ["a", "b"] * 2})
    frame.to_parquet(tmp_path / "t.parquet")
    entry = entries.dataset(format="parquet", image="img", label="kind")
    rows = prepare_rows({"train": [tmp_path / "t.parquet"]}, entry, WHERE)
    assert rows["image"].tolist() == images
    pd.DataFrame({"img": [b"one", None], "kind": ["a", "b"]}).to_parquet(tmp_path / "t.parquet")
    with pytest.raises(UserError, match=r"image, file t\.parquet, row 1: found NoneType"):
        prepare_rows({"train": [tmp_path / "t.parquet"]}, entry, WHERE)


# --- Splits ---


def test_every_file_has_its_split(tmp_path: Path) -> None:
    for name in ("train", "validation", "test", "test-other"):
        films(12).to_csv(tmp_path / f"{name}.csv", index=False)
    files = {name: [tmp_path / f"{name}.csv"] for name in ("train", "validation", "test", "test-other")}
    rows = prepare_rows(files, dataset(label="kind"), WHERE)
    assert rows["split"].value_counts().to_dict() == dict.fromkeys(files, 11)


@settings(max_examples=30, deadline=None)
@given(st.integers(20, 200), st.floats(0.1, 0.4), st.floats(0.1, 0.4), st.integers(0, 9))
def test_rows_are_held_out_in_the_fractions_that_were_asked(n: int, test: float, validation: float, seed: int) -> None:
    found = hold_out(pd.Series([f"{i:04}" for i in range(n)]), {"test": test, "validation": validation}, seed)
    counts = found.value_counts()
    assert counts["test"] == round(test * n)
    assert counts["validation"] == round(validation * n)
    assert counts.sum() == n


def test_a_validation_split_is_drawn_from_the_training_rows_alone(tmp_path: Path) -> None:
    for name in ("train", "test"):
        films(40).to_csv(tmp_path / f"{name}.csv", index=False)
    files = {name: [tmp_path / f"{name}.csv"] for name in ("train", "test")}
    rows = prepare_rows(files, dataset(label="kind", split={"validation_fraction": 0.25, "seed": 0}), WHERE)
    assert rows["split"].value_counts().to_dict() == {"train": 29, "test": 39, "validation": 10}


def test_a_column_says_the_split(tmp_path: Path) -> None:
    frame = films().assign(part=["train", "test", "train"] * 20)
    rows = prepare(tmp_path, frame, split={"column": "part"})
    assert rows["split"].tolist() == frame["part"].tolist()[1:]
    frame.loc[4, "part"] = "dev"
    with pytest.raises(UserError, match=r"split\.column, file t\.csv, row 4: found 'dev'"):
        prepare(tmp_path, frame, split={"column": "part"})


def test_a_class_that_training_does_not_see_is_refused(tmp_path: Path) -> None:
    for name in ("train", "test"):
        films(12).to_csv(tmp_path / f"{name}.csv", index=False)
    other = films(12)
    other.loc[3, "kind"] = "essay"
    other.to_csv(tmp_path / "test.csv", index=False)
    files = {name: [tmp_path / f"{name}.csv"] for name in ("train", "test")}
    with pytest.raises(UserError, match="split 'test': found the class 'essay', which no row of 'train' has"):
        prepare_rows(files, dataset(label="kind"), WHERE)


# --- Documents ---


def test_lines_are_joined_to_documents(tmp_path: Path) -> None:
    lines = ["lost\n", " = One = \n", "a b\n", " = = Part = = \n", "c\n", " = Two = \n", "d\n"]
    pd.DataFrame({"body": lines}).to_parquet(tmp_path / "t.parquet")
    entry = dataset(format="parquet", documents="= [^=].*[^=] =")
    rows = prepare_rows({"test": [tmp_path / "t.parquet"]}, entry, WHERE)
    assert rows["text"].tolist() == [" = One = \na b\n = = Part = = \nc\n", " = Two = \nd\n"]
    with pytest.raises(UserError, match="documents: found the pattern 'Chapter', which no text matches"):
        prepare_rows({"test": [tmp_path / "t.parquet"]}, replace(entry, documents="Chapter"), WHERE)
