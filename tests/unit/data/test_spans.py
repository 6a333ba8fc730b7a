"""Spans: features that hold their answers, the loss of transformers, the best span by brute force, SQuAD's scores."""

from __future__ import annotations

import itertools
import math
import re
import string
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import BertConfig, BertForQuestionAnswering, PreTrainedTokenizerFast

from essential_sparsity.data.spans import (
    best_spans,
    check_answerable,
    check_rows,
    lost_answers,
    span_features,
    span_loss,
)
from essential_sparsity.errors import UserError
from essential_sparsity.metrics.registry import chance_of, compute_metric
from essential_sparsity.metrics.squad import gold_label, normalised, squad_scores, squad_v2_scores
from essential_sparsity.pretraining.masked_text import train_tokenizer
from reference_metrics import reference_metric

WHERE = "model m, task squad"
WORDS = ["The", "river", "Köln", "1950s", "ran", "to", "an", "ünïcode", "日本", "sea,", "(old)", "naïve", "x"]
QUESTION = "Where ran the river?"


def pad_features(features: Any, chosen: Sequence[int], tokenizer: Any) -> dict[str, torch.Tensor]:
    """Make a batch by the tokenizer's own padding."""
    present = [key for key in ("input_ids", "token_type_ids") if key in features]
    inputs = [{key: np.asarray(features[key][i]).tolist() for key in present} for i in chosen]
    batch: dict[str, torch.Tensor] = dict(tokenizer.pad(inputs, return_tensors="pt", return_attention_mask=True))
    # The first token that is no padding: 0 where padding is on the right.
    shift = batch["attention_mask"].argmax(dim=1)
    for key in ("start_position", "end_position"):
        batch[f"{key}s"] = torch.tensor([int(features[key][i]) for i in chosen]) + shift
    return batch


def word_piece() -> PreTrainedTokenizerFast:
    """BERT's kind of tokenizer: lower case, accents stripped, words cut into pieces."""
    return train_tokenizer([" ".join(WORDS), QUESTION], 120, 1, 512)


def byte_level() -> PreTrainedTokenizerFast:
    """RoBERTa's kind of tokenizer, but padded on the left: several tokens for one character, no segment ids."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = ["<s>", "</s>", "<pad>"]
    trainer = trainers.BpeTrainer(
        vocab_size=290, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )  # fmt: skip
    backend.train_from_iterator([" ".join(WORDS), QUESTION], trainer)
    backend.post_processor = processors.RobertaProcessing(("</s>", 1), ("<s>", 0), trim_offsets=True)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, cls_token="<s>", sep_token="</s>", pad_token="<pad>", padding_side="left",
        model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip


def cls_at_the_end() -> PreTrainedTokenizerFast:
    """XLNet's kind of sequence: the special tokens stand at the end, and padding on the left."""
    tokenizer = word_piece()
    backend = tokenizer.backend_tokenizer
    ids = [(token, backend.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    backend.post_processor = processors.TemplateProcessing(
        single="$A [SEP] [CLS]", pair="$A [SEP] $B:1 [SEP]:1 [CLS]:2", special_tokens=ids
    )
    tokenizer.padding_side = "left"
    return tokenizer


def without_special_tokens() -> PreTrainedTokenizerFast:
    """GPT-2's kind of sequence: no CLS, nothing between question and context."""
    backend = word_piece().backend_tokenizer
    backend.post_processor = processors.TemplateProcessing(single="$A", pair="$A $B:1", special_tokens=[])
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]")


TOKENIZERS = {t.__name__: t() for t in (word_piece, byte_level, cls_at_the_end, without_special_tokens)}


@pytest.fixture(params=TOKENIZERS)
def tokenizer(request: pytest.FixtureRequest) -> Any:
    return TOKENIZERS[request.param]


def question(row: int, context: str, *answers: tuple[str, int], text: str = QUESTION) -> dict[str, Any]:
    return {
        "id": row, "split": "train", "text": text, "text_pair": context, "answers": [a for a, _ in answers],
        "answer_starts": [start for _, start in answers],
    }  # fmt: skip


def random_rows(seed: int, n: int = 12, answerable: float = 1.0) -> pd.DataFrame:
    """Questions whose answers are whole words of contexts of very different lengths; the ids are not row numbers."""
    draw = np.random.default_rng(seed)
    rows = []
    for i in range(n):
        words = draw.choice(WORDS, size=draw.integers(1, 60)).tolist()
        gaps = draw.choice([" ", "  ", "\n"], size=len(words)).tolist()
        context = "".join(word + gap for word, gap in zip(words, gaps, strict=True))
        first = int(draw.integers(len(words)))
        last = int(draw.integers(first, min(first + 3, len(words))))
        start = sum(len(word) + len(gap) for word, gap in zip(words[:first], gaps[:first], strict=True))
        answer = "".join(map("".join, zip(words[first : last + 1], gaps[first : last + 1], strict=True))).rstrip()
        rows.append(question(100 + 7 * i, context, *([(answer, start)] if draw.random() < answerable else [])))
    return pd.DataFrame(rows)


def features_of(rows: pd.DataFrame, tokenizer: Any, max_length: int = 40, stride: int = 6, **options: bool) -> Any:
    return span_features(rows, tokenizer, max_length, stride, **{"segments": True, **options}, where=WHERE)


def answered(features: Any, i: int, context: str) -> str | None:
    """The text between the positions of feature i; None where they say that there is none."""
    begin, end = features["start_position"][i], features["end_position"][i]
    if begin == end == features["null_position"][i]:
        return None
    offsets = np.asarray(features["offsets"][i]).reshape(-1, 2)
    return context[offsets[begin, 0] : offsets[end, 1]]


# --- features -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(8))
def test_every_feature_with_an_answer_holds_the_gold_answer(tokenizer: Any, seed: int) -> None:
    rows = random_rows(seed)
    features = features_of(rows, tokenizer)
    contexts, golds = rows.set_index("id")["text_pair"], rows.set_index("id")["answers"].str[0]
    texts = [answered(features, i, contexts[row]) for i, row in enumerate(features["id"])]
    assert len(texts) > len(rows), "some contexts take several windows"
    for row, text in zip(features["id"], texts, strict=True):
        assert text in (None, golds[row])
    held = {row for row, text in zip(features["id"], texts, strict=True) if text}
    assert lost_answers(features, rows) == len(rows) - len(held)
    # Answers have three words at most; a word of these takes 9 bytes and blanks at most.
    assert lost_answers(features_of(rows, tokenizer, 80, 40), rows) == 0


@settings(deadline=None, derandomize=True, max_examples=150)
@given(st.text(min_size=1, max_size=80), st.data())
def test_any_answer_is_covered_by_its_tokens_and_by_no_more_than_needed(context: str, data: st.DataObject) -> None:
    if not context.strip():
        return
    begin = data.draw(st.integers(0, len(context) - 1))
    end = data.draw(st.integers(begin + 1, len(context)))
    answer = context[begin:end]
    if not answer.strip():
        return
    tokenizer = TOKENIZERS[data.draw(st.sampled_from(sorted(TOKENIZERS)))]
    features = features_of(pd.DataFrame([question(1, context, (answer, begin))]), tokenizer, 400, 50)
    assert len(features["id"]) == 1
    offsets = np.asarray(features["offsets"][0]).reshape(-1, 2)
    stands = [(a, b) for a, b in offsets.tolist() if a >= 0]
    letters = {c for c in range(begin, end) if any(a <= c < b for a, b in stands)}
    first, last = features["start_position"][0], features["end_position"][0]
    if first == features["null_position"][0]:
        # Only where an end of the answer is nothing to the tokenizer.
        edges = {begin + len(answer) - len(answer.lstrip()), begin + len(answer.rstrip()) - 1}
        assert not edges <= letters
        return
    covered = {c for a, b in offsets[first : last + 1].tolist() for c in range(a, b)}
    assert letters <= covered
    # Neither end can be left out.
    for token in (first, last):
        assert set(range(*offsets[token].tolist())) & letters


def test_windows_overlap_by_the_stride_and_cover_the_context(tokenizer: Any) -> None:
    rows = random_rows(3)
    features = features_of(rows, tokenizer, max_length=40, stride=6)
    frame = pd.DataFrame(dict(features))
    assert frame["id"].drop_duplicates().tolist() == rows["id"].tolist()
    # What stands before and behind the context: seen where the context is one token.
    around = np.asarray(features_of(pd.DataFrame([question(1, "x")]), tokenizer)["offsets"][0])[::2]
    before = int(np.flatnonzero(around >= 0)[0])
    behind = len(around) - before - 1
    for row, windows in frame.groupby("id"):
        context = rows.set_index("id").loc[row, "text_pair"]
        parts = [list(ids)[before : len(ids) - behind] for ids in windows["input_ids"]]
        for one, following in itertools.pairwise(parts):
            assert one[-6:] == following[:6]
            assert len(following) > 6
        spans = [np.asarray(o).reshape(-1, 2).tolist() for o in windows["offsets"]]
        covered = {c for window in spans for begin, end in window for c in range(begin, end)}
        assert {c for c, letter in enumerate(context) if not letter.isspace()} <= covered
    assert max(map(len, frame["input_ids"])) == 40, "windows are filled"


def test_tokens_of_the_question_and_special_ones_have_no_characters(tokenizer: Any) -> None:
    rows = pd.DataFrame([question(5, "the river ran")])
    features = features_of(rows, tokenizer)
    offsets = np.asarray(features["offsets"][0]).reshape(-1, 2)
    assert len(offsets) == len(features["input_ids"][0])
    pieces = ["the river ran"[begin:end] for begin, end in offsets.tolist() if begin >= 0]
    assert "".join(pieces) == "theriverran"
    asked = len(tokenizer(QUESTION, add_special_tokens=False)["input_ids"])
    assert (offsets[:, 0] < 0).sum() == asked + tokenizer.num_special_tokens_to_add(pair=True)


def test_segment_ids_are_asked_for() -> None:
    tokenizer = word_piece()
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    rows = random_rows(0)
    with_segments, without = (features_of(rows, tokenizer, segments=segments) for segments in (True, False))
    assert "token_type_ids" not in without
    for segments, offsets in zip(with_segments["token_type_ids"], with_segments["offsets"], strict=True):
        context = np.asarray(offsets).reshape(-1, 2)[:, 0] >= 0
        assert np.asarray(segments)[context].all()
        assert set(np.asarray(segments)) == {0, 1}
    assert [list(ids) for ids in with_segments["input_ids"]] == [list(ids) for ids in without["input_ids"]]


@pytest.mark.parametrize(
    ("make", "null"),
    [(word_piece, 0), (byte_level, 0), (cls_at_the_end, -1), (without_special_tokens, 0)],
)
def test_no_answer_is_at_cls_or_at_the_first_token(make: Any, null: int) -> None:
    features = features_of(random_rows(1, answerable=0.0), TOKENIZERS[make.__name__])
    for i, ids in enumerate(features["input_ids"]):
        at = null % len(ids)
        assert features["null_position"][i] == features["start_position"][i] == features["end_position"][i] == at


def test_an_answer_outside_a_window_is_none_there() -> None:
    context = " ".join(["river"] * 60 + ["Köln"])
    rows = pd.DataFrame([question(1, context, ("Köln", 360))])
    features = features_of(rows, word_piece())
    texts = [answered(features, i, context) for i in range(len(features["id"]))]
    assert len(texts) > 2
    assert texts == [None] * (len(texts) - 1) + ["Köln"]


def test_an_answer_longer_than_every_window_is_counted_as_lost() -> None:
    context = " ".join(["river"] * 100)
    rows = pd.DataFrame([question(1, context, (context, 0)), question(2, "ran to sea", ("sea", 7)), question(3, "ran")])
    assert lost_answers(features_of(rows, word_piece()), rows) == 1


def test_the_first_gold_answer_is_the_one_to_learn() -> None:
    rows = pd.DataFrame([question(1, "ran to the sea", ("the sea", 7), ("ran", 0))])
    assert answered(features_of(rows, word_piece()), 0, "ran to the sea") == "the sea"


def test_blanks_before_a_question_take_no_room(tokenizer: Any) -> None:
    rows = pd.DataFrame([question(1, "ran to sea", ("sea", 7), text=" " * 300 + QUESTION)])
    plain = pd.DataFrame([question(1, "ran to sea", ("sea", 7))])
    assert list(features_of(rows, tokenizer)["input_ids"][0]) == list(features_of(plain, tokenizer)["input_ids"][0])


def test_features_survive_arrow(tokenizer: Any) -> None:
    rows = random_rows(0, answerable=0.7)
    features = features_of(rows, tokenizer)
    stored = pa.table(features).to_pydict()
    logits = [np.arange(len(ids), dtype=np.float32) for ids in features["input_ids"]]
    assert best_spans(logits, logits, stored, rows, WHERE) == best_spans(logits, logits, features, rows, WHERE)
    torch.testing.assert_close(pad_features(stored, [1, 0], tokenizer), pad_features(features, [1, 0], tokenizer))


def test_rows_are_tokenised_the_same_whatever_stands_beside_them(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = random_rows(2)
    whole = pa.table(features_of(rows, tokenizer))
    monkeypatch.setattr("essential_sparsity.data.spans._CHUNK", 5)
    assert pa.table(features_of(rows, tokenizer)).equals(whole)


# --- batches --------------------------------------------------------------------------------------------------------


def test_positions_point_at_the_same_tokens_after_padding(tokenizer: Any) -> None:
    features = features_of(random_rows(4, answerable=0.8), tokenizer)
    chosen = list(range(len(features["id"])))
    batch = pad_features(features, chosen, tokenizer)
    assert batch["attention_mask"].min() == 0, "something is padded"
    for i, (ids, mask) in enumerate(zip(batch["input_ids"], batch["attention_mask"], strict=True)):
        assert ids[mask.bool()].tolist() == list(features["input_ids"][i])
        for key in ("start", "end"):
            token = features["input_ids"][i][features[f"{key}_position"][i]]
            assert ids[batch[f"{key}_positions"][i]] == token


# --- loss -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model() -> BertForQuestionAnswering:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=200, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=64,
    )  # fmt: skip
    net = BertForQuestionAnswering(config).eval()
    # Large enough that losses differ from those of an even guess.
    torch.nn.init.normal_(net.qa_outputs.weight, std=2.0)
    return net


def test_the_loss_is_that_of_transformers(model: BertForQuestionAnswering) -> None:
    tokenizer = word_piece()
    features = features_of(random_rows(5, answerable=0.8), tokenizer)
    batch = pad_features(features, list(range(8)), tokenizer)
    theirs = model(**batch)
    ours = span_loss(theirs.start_logits, theirs.end_logits, batch["start_positions"], batch["end_positions"], 8)
    torch.testing.assert_close(ours, theirs.loss)
    assert abs(float(theirs.loss.detach()) - math.log(batch["input_ids"].shape[1])) > 0.05


def test_positions_beyond_the_sequence_are_ignored_as_in_transformers(model: BertForQuestionAnswering) -> None:
    tokenizer = word_piece()
    batch = pad_features(features_of(random_rows(5), tokenizer), list(range(6)), tokenizer)
    for key in ("start_positions", "end_positions"):
        batch[key][[1, 4]] = torch.tensor([batch["input_ids"].shape[1], 1000])
    theirs = model(**batch)
    ours = span_loss(theirs.start_logits, theirs.end_logits, batch["start_positions"], batch["end_positions"], 4)
    torch.testing.assert_close(ours, theirs.loss)


def test_small_batches_give_the_gradients_of_a_large_one(model: BertForQuestionAnswering) -> None:
    draw = torch.Generator().manual_seed(0)
    start, end = (torch.randn(9, 20, generator=draw, requires_grad=True) for _ in range(2))
    positions = torch.randint(0, 20, (2, 9), generator=draw)
    span_loss(start, end, *positions, 9).backward()
    whole = start.grad.clone(), end.grad.clone()
    start.grad = end.grad = None
    for part in (slice(0, 5), slice(5, 6), slice(6, 9)):
        span_loss(start[part], end[part], *positions[:, part], 9).backward()
    torch.testing.assert_close((start.grad, end.grad), whole)


# --- the best span --------------------------------------------------------------------------------------------------


def brute_force(
    starts: Sequence[np.ndarray], ends: Sequence[np.ndarray], features: Any, rows: pd.DataFrame,
    n_best: int, max_answer_length: int, null_threshold: float | None,
) -> list[str]:  # fmt: skip
    """BERT's procedure word for word, by loops and sorts."""
    texts = []
    for row, context in zip(rows["id"], rows["text_pair"], strict=True):
        candidates, null = [], math.inf
        for i in [i for i, of in enumerate(features["id"]) if of == row]:
            offsets = np.asarray(features["offsets"][i]).reshape(-1, 2).tolist()
            cls = features["null_position"][i]
            null = min(null, float(starts[i][cls]) + float(ends[i][cls]))
            best_starts = sorted(range(len(offsets)), key=lambda t, i=i: -starts[i][t])[:n_best]
            best_ends = sorted(range(len(offsets)), key=lambda t, i=i: -ends[i][t])[:n_best]
            for s in best_starts:
                for e in best_ends:
                    if offsets[s][0] < 0 or offsets[e][0] < 0 or e < s or e - s + 1 > max_answer_length:
                        continue
                    score = float(starts[i][s]) + float(ends[i][e])
                    candidates.append((score, context[offsets[s][0] : offsets[e][1]]))
        candidates.sort(key=lambda pair: -pair[0])
        if not candidates or (null_threshold is not None and null - candidates[0][0] > null_threshold):
            texts.append("")
        else:
            texts.append(candidates[0][1])
    return texts


@pytest.mark.parametrize("null_threshold", [None, 0.0, -1.5, 2.0])
@pytest.mark.parametrize("seed", range(6))
def test_the_best_spans_are_those_of_brute_force(tokenizer: Any, seed: int, null_threshold: float | None) -> None:
    rows = random_rows(seed, n=20)
    features = features_of(rows, tokenizer)
    # The features of a row need not stand together, and rows not in the order of features.
    draw = np.random.default_rng(seed)
    order = draw.permutation(len(features["id"]))
    features = {key: [values[i] for i in order] for key, values in features.items()}
    rows = rows.sample(frac=1, random_state=seed)
    # Few different logits, so that there are ties; one or two starts in some, so that no pair may count.
    n_best, longest = int(draw.integers(1, 6)), int(draw.integers(1, 5))
    starts, ends = ([draw.integers(-3, 4, len(i)).astype(np.float32) for i in features["input_ids"]] for _ in range(2))
    ours = best_spans(starts, ends, features, rows, WHERE, n_best, longest, null_threshold)
    assert ours == brute_force(starts, ends, features, rows, n_best, longest, null_threshold)


def test_answers_with_and_without_text_occur_in_that_comparison() -> None:
    rows = random_rows(0, n=20)
    features = features_of(rows, word_piece())
    draw = np.random.default_rng(0)
    logits = [draw.normal(size=len(i)).astype(np.float32) for i in features["input_ids"]]
    for threshold, some_empty in ((None, False), (-3.0, True)):
        texts = best_spans(logits, logits, features, rows, WHERE, 20, 30, threshold)
        assert any(texts)
        assert ("" in texts) == some_empty


@pytest.mark.parametrize("at_once", [1, 3])
def test_features_sought_together_do_not_matter(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = random_rows(1, n=20)
    features = features_of(rows, word_piece())
    draw = np.random.default_rng(1)
    starts, ends = ([draw.normal(size=len(i)).astype(np.float32) for i in features["input_ids"]] for _ in range(2))
    whole = best_spans(starts, ends, features, rows, WHERE)
    monkeypatch.setattr("essential_sparsity.data.spans._FEATURES_AT_ONCE", at_once)
    assert best_spans(starts, ends, features, rows, WHERE) == whole


CONTEXT = "The  river ran to Köln, then (slowly) to the Sea."


def one_feature() -> tuple[pd.DataFrame, Any, dict[str, int]]:
    """A row, its feature, and the token at which each word of the context begins."""
    rows = pd.DataFrame([question(9, CONTEXT)])
    words = re.findall(r"\w+", CONTEXT.lower())
    features = span_features(rows, train_tokenizer(words * 3, 200, 1, 64), 64, 8, True, WHERE)
    offsets = np.asarray(features["offsets"][0]).reshape(-1, 2)
    return rows, features, {CONTEXT[b:e]: t for t, (b, e) in enumerate(offsets.tolist()) if b >= 0}


def peaks(features: Any, heights: dict[int, float]) -> list[np.ndarray]:
    logits = np.zeros(len(features["input_ids"][0]), dtype=np.float32)
    for token, height in heights.items():
        logits[token] = height
    return [logits]


def test_the_answer_is_cut_from_the_context_as_it_is_written() -> None:
    rows, features, at = one_feature()
    starts, ends = peaks(features, {at["The"]: 5}), peaks(features, {at["Köln"]: 5})
    assert best_spans(starts, ends, features, rows, WHERE) == ["The  river ran to Köln"]
    # With too few tokens allowed the best pair is the start with an end that is near enough, and of equal sums the
    # higher start comes first.
    assert best_spans(starts, ends, features, rows, WHERE, max_answer_length=1) == ["The"]
    assert best_spans(starts, ends, features, rows, WHERE, max_answer_length=5) == ["The  river ran to Köln"]
    # An end before its start does not count, however high.
    assert best_spans(ends, starts, features, rows, WHERE)[0] != "The  river ran to Köln"


def test_no_answer_needs_more_than_the_threshold() -> None:
    rows, features, at = one_feature()
    starts, ends = peaks(features, {at["Sea"]: 4, 0: 3}), peaks(features, {at["Sea"]: 4, 0: 6})
    # None has 9, the best pair 8.
    assert best_spans(starts, ends, features, rows, WHERE) == ["Sea"]
    assert best_spans(starts, ends, features, rows, WHERE, null_threshold=0.0) == [""]
    assert best_spans(starts, ends, features, rows, WHERE, null_threshold=1.0) == ["Sea"]


def test_none_counts_only_if_no_window_has_an_answer() -> None:
    """The sum for none is the least of all windows: one window that is sure of its answer is enough."""
    context = " ".join(["river"] * 60 + ["Köln"])
    rows = pd.DataFrame([question(1, context)])
    features = features_of(rows, word_piece())
    n = len(features["id"])
    starts = [np.zeros(len(ids), dtype=np.float32) for ids in features["input_ids"]]
    for logits in starts[: n - 1]:
        logits[0] = 10.0
    begin = np.flatnonzero(np.asarray(features["offsets"][n - 1]).reshape(-1, 2)[:, 0] == 360)[0]
    starts[n - 1][begin] = 5.0
    ends = [logits.copy() for logits in starts]
    last = np.flatnonzero(np.asarray(features["offsets"][n - 1]).reshape(-1, 2)[:, 1] == 364)[0]
    ends[n - 1][begin], ends[n - 1][last] = 0.0, 5.0
    assert best_spans(starts, ends, features, rows, WHERE, null_threshold=0.0) == ["Köln"]
    starts[n - 1][0] = 11.0
    assert best_spans(starts, ends, features, rows, WHERE, null_threshold=0.0) == [""]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_logits_that_failed_are_no_answer(bad: float) -> None:
    rows, features, _ = one_feature()
    good, broken = peaks(features, {}), peaks(features, {3: bad})
    for starts, ends in ((good, broken), (broken, good)):
        with pytest.raises(UserError, match=r"row 9: found 1 of \d+ logits that are NaN or infinite"):
            best_spans(starts, ends, features, rows, WHERE)


def test_a_row_without_features_is_refused() -> None:
    rows, features, _ = one_feature()
    with pytest.raises(UserError, match="no feature of row 10"):
        best_spans(peaks(features, {}), peaks(features, {}), features, rows.assign(id=10), WHERE)


def test_logits_of_padding_are_refused() -> None:
    rows, features, _ = one_feature()
    longer = [np.append(peaks(features, {})[0], 0)]
    with pytest.raises(ValueError, match="feature 0: logits for"):
        best_spans(longer, longer, features, rows, WHERE)


# --- scores of answers ----------------------------------------------------------------------------------------------


def test_answers_are_compared_without_case_punctuation_articles_and_blanks() -> None:
    assert normalised("  The  U.S.\tA-Team's an' theatre, a ") == "us ateams theatre"
    assert normalised("A.n") == "", "punctuation goes before articles do"
    assert normalised("«Ä» … the ß") == "«ä» … ß", "only ASCII punctuation is"


def test_scores_by_hand() -> None:
    assert squad_scores("the Denver Broncos", ["Denver Broncos", "Broncos"]) == (1.0, 1.0)
    # 1 word shared of 2 and 2; the other gold answer shares none.
    assert squad_scores("Denver Broncos", ["Denver city", "x"]) == (0.0, pytest.approx(0.5))
    # A word counts as often as both have it: 2 shared of 3 and 2.
    assert squad_scores("no no no", ["no no"]) == (0.0, pytest.approx(0.8))
    assert squad_scores("", ["x"]) == (0.0, 0.0)
    with pytest.raises(ValueError, match="a gold answer for every question"):
        squad_scores("x", [])


def test_where_there_is_no_answer_only_none_is_right() -> None:
    assert squad_v2_scores("", []) == (1.0, 1.0)
    assert squad_v2_scores("x", []) == (0.0, 0.0)
    assert squad_v2_scores("", ["x"]) == (0.0, 0.0)
    # Articles and punctuation are no answer.
    assert squad_v2_scores("the", []) == (1.0, 1.0)
    assert squad_v2_scores("", ["the", "!"]) == (1.0, 1.0)
    assert squad_v2_scores("an x", ["the", "x"]) == (1.0, 1.0)


answer_texts = st.lists(
    st.sampled_from(["the", "A", "an", "x", "X.", "y", "z-z", "1,000", "«q»", "!", "\t", "Ünï"]), max_size=5
).map(" ".join)


@settings(deadline=None, derandomize=True)
@given(answer_texts, st.lists(answer_texts, min_size=1, max_size=3))
def test_f1_is_the_harmonic_mean_of_precision_and_recall(prediction: str, golds: list[str]) -> None:
    def words(text: str) -> list[str]:
        kept = "".join(c for c in text.lower() if c not in string.punctuation)
        return [word for word in kept.split() if word not in ("a", "an", "the")]

    best = 0.0
    for gold in golds:
        rest, shared = words(gold), 0
        for word in words(prediction):
            if word in rest:
                rest.remove(word)
                shared += 1
        if shared:
            precision, recall = shared / len(words(prediction)), shared / len(words(gold))
            best = max(best, 2 * precision * recall / (precision + recall))
    exact, f1 = squad_scores(prediction, golds)
    assert f1 == pytest.approx(best)
    assert exact == any(words(prediction) == words(gold) for gold in golds)
    assert exact <= f1 or not words(prediction)


def cases(seed: int, unanswerable: bool) -> list[tuple[str, list[str]]]:
    """Predictions with gold answers, some of them right, some in part, some degenerate."""
    draw = np.random.default_rng(seed)
    pool = ["the", "A", "an", "x", "X.", "y", "z-z", "1,000", "«q»", "!", "Ünï", "it's"]

    def text(fewest: int) -> str:
        return " ".join(draw.choice(pool, size=draw.integers(fewest, 4)))

    found = []
    for _ in range(400):
        golds = [text(1) for _ in range(draw.integers(0 if unanswerable else 1, 4))]
        found.append((str(draw.choice(golds)) if golds and draw.random() < 0.4 else text(0), golds))
    return found


@pytest.mark.parametrize("seed", range(3))
def test_scores_are_those_of_squad(seed: int) -> None:
    reference = reference_metric("squad")
    pairs = cases(seed, unanswerable=False)
    expected = reference.compute(
        predictions=[{"id": str(i), "prediction_text": said} for i, (said, _) in enumerate(pairs)],
        references=[
            {"id": str(i), "answers": {"text": golds, "answer_start": [0] * len(golds)}}
            for i, (_, golds) in enumerate(pairs)
        ],
    )
    exact, f1 = np.mean([squad_scores(*pair) for pair in pairs], axis=0)
    assert 0 < exact < 1
    assert 0 < f1 < 1
    assert {"exact_match": pytest.approx(100 * exact), "f1": pytest.approx(100 * f1)} == expected


@pytest.mark.parametrize("seed", range(3))
def test_scores_are_those_of_squad_v2(seed: int) -> None:
    reference = reference_metric("squad_v2")
    pairs = cases(seed, unanswerable=True)
    expected = reference.compute(
        predictions=[
            {"id": str(i), "prediction_text": said, "no_answer_probability": 0.0} for i, (said, _) in enumerate(pairs)
        ],
        references=[
            {"id": str(i), "answers": {"text": golds, "answer_start": [0] * len(golds)}}
            for i, (_, golds) in enumerate(pairs)
        ],
    )
    scores = np.array([squad_v2_scores(*pair) for pair in pairs])
    none = np.array([not golds for _, golds in pairs])
    assert 0 < none.mean() < 1
    for part, prefix in ((slice(None), ""), (~none, "HasAns_"), (none, "NoAns_")):
        assert expected[f"{prefix}exact"] == pytest.approx(100 * scores[part, 0].mean())
        assert expected[f"{prefix}f1"] == pytest.approx(100 * scores[part, 1].mean())


def test_metrics_of_spans_are_means_of_scores_and_chance_is_that_of_no_answer() -> None:
    pairs = cases(0, unanswerable=True)
    labels = [gold_label([g for g in golds if normalised(g)]) for _, golds in pairs]
    scores = np.array([squad_v2_scores(*pair) for pair in pairs])
    silent = np.mean([squad_v2_scores("", golds) for _, golds in pairs], axis=0)
    for column, metric in enumerate(("exact_match", "squad_f1")):
        given = [said for said, _ in pairs]
        frame = pd.DataFrame(
            {"id": range(len(pairs)), "label": labels, "prediction": given, "score": scores[:, column]}
        )
        assert compute_metric(metric, frame, WHERE).value == pytest.approx(scores[:, column].mean())
        assert chance_of(metric, frame["label"], WHERE) == pytest.approx(silent[column])


# --- bad rows -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "start"),
    [("Köln", 17), ("köln", 18), ("Sea.", 600), ("Sea", -4), ("", 3), ("  ", 3), ("Köln", -1)],
)
def test_an_answer_that_is_not_at_its_place_is_refused(answer: str, start: int) -> None:
    rows = pd.DataFrame([question(3, CONTEXT, ("Köln", 18)), question(4, CONTEXT, ("Köln", 18), (answer, start))])
    with pytest.raises(UserError) as caught:
        features_of(rows, word_piece())
    assert caught.value.where == f"{WHERE}, row 4"
    assert f"the answer {answer!r}" in caught.value.found
    assert str(start) in caught.value.found


@pytest.mark.parametrize("column", ["text", "text_pair", "answers", "answer_starts"])
def test_a_missing_column_and_a_missing_value_are_refused(column: str) -> None:
    rows = pd.DataFrame([question(3, CONTEXT, ("Köln", 18)), question(4, CONTEXT, ("Köln", 18))])
    with pytest.raises(UserError, match=f"column '{column}', which the data do not have"):
        check_rows(rows.drop(columns=column), WHERE)
    rows[column] = rows[column].astype(object)
    rows.at[1, column] = None
    with pytest.raises(UserError, match=f"row 4: found no `{column}`"):
        check_rows(rows, WHERE)


@pytest.mark.parametrize("column", ["text", "text_pair"])
def test_an_empty_question_and_an_empty_context_are_refused(column: str) -> None:
    rows = pd.DataFrame([{**question(4, CONTEXT), column: " \n"}])
    with pytest.raises(UserError, match=f"row 4: found an empty `{column}`"):
        check_rows(rows, WHERE)


def test_answers_and_starts_are_of_one_number() -> None:
    rows = pd.DataFrame([{**question(4, CONTEXT, ("Köln", 18)), "answer_starts": []}])
    with pytest.raises(UserError, match="row 4: found 1 answers with 0 starts"):
        check_rows(rows, WHERE)


def test_rows_as_parquet_gives_them_are_accepted(tmp_path: Any) -> None:
    rows = random_rows(0, answerable=0.6)
    rows.to_parquet(tmp_path / "rows.parquet")
    read = pd.read_parquet(tmp_path / "rows.parquet")
    assert isinstance(read["answers"][0], np.ndarray)
    check_rows(read, WHERE)
    assert pa.table(features_of(read, word_piece())).equals(pa.table(features_of(rows, word_piece())))


def test_questions_without_an_answer_are_not_of_squad_1() -> None:
    rows = pd.DataFrame([question(3, CONTEXT, ("Köln", 18)), question(4, CONTEXT), question(5, CONTEXT)])
    check_answerable(rows.iloc[:1], WHERE)
    with pytest.raises(UserError, match=r"row 4: found a question without an answer \(so are 2 of 3\)"):
        check_answerable(rows, WHERE)


def test_a_tokenizer_of_python_is_refused() -> None:
    class Slow:
        is_fast = False

    with pytest.raises(UserError, match=r"a tokenizer of Python \(Slow\)"):
        features_of(random_rows(0), Slow())


def test_a_question_that_leaves_no_room_is_refused(tokenizer: Any) -> None:
    rows = pd.DataFrame([question(3, CONTEXT), question(4, CONTEXT, text="ran to " * 40)])
    with pytest.raises(UserError, match=r"row 4: found a question of \d+ tokens.*leaves 0 of `max_length: 40`"):
        features_of(rows, tokenizer)
    asked = len(tokenizer(QUESTION, add_special_tokens=False)["input_ids"])
    room = asked + tokenizer.num_special_tokens_to_add(pair=True)
    long = pd.DataFrame([question(3, CONTEXT * 9)])
    with pytest.raises(UserError, match=r"row 3: .*room for more than `stride: 6`"):
        features_of(long, tokenizer, max_length=room + 6)
    assert len(features_of(long, tokenizer, max_length=room + 7)["id"]) > 10
