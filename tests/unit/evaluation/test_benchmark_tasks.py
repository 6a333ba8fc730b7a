"""Tasks of the lm-evaluation-harness in memory, against the harness's own command line and against arithmetic."""

from __future__ import annotations

import json
import logging
import math
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import lm_eval.tasks
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import nn
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import entries
import tiny
from essential_sparsity.errors import UserError
from essential_sparsity.evaluation import benchmark_tasks
from essential_sparsity.evaluation.benchmark import evaluate_benchmark
from essential_sparsity.evaluation.benchmark_files import split_files
from essential_sparsity.evaluation.outcomes import Outcome

WHERE = "model m, sparsity 0.300"
MMLU = tiny.ROOT.parent / "shared" / "hub" / "datasets" / "cais" / "mmlu"
HUMANITIES = {
    "formal_logic": 3, "high_school_european_history": 2, "high_school_us_history": 5, "high_school_world_history": 2,
    "international_law": 2, "jurisprudence": 4, "logical_fallacies": 2, "moral_disputes": 2, "moral_scenarios": 2,
    "philosophy": 3, "prehistory": 2, "professional_law": 7, "world_religions": 2,
}  # fmt: skip

# Where the harness defines the tasks of the comparison.
HOMES = ("arc", "super_glue/boolq", "winogrande", "lambada", "gsm8k", "wikitext", "mmlu/default")

# What each task of the comparison reads, as the command line is told to read it too: configuration and shots.
READS = {
    "arc_easy": ("ARC-Easy", 0), "boolq": ("boolq", 2), "winogrande": ("winogrande_xl", 0),
    "lambada_openai": ("default", 0), "gsm8k": ("main", 1), "wikitext": ("wikitext-2-raw-v1", 0),
    **{f"mmlu_{subject}": (subject, 2) for subject in HUMANITIES},
}  # fmt: skip


def sentence(draw: np.random.Generator, words: int = 8) -> str:
    return " ".join(draw.choice(tiny.PLOT_WORDS + tiny.REVIEW_WORDS, size=words))


def arc_rows(draw: np.random.Generator, rows: int) -> pd.DataFrame:
    """Items of four choices, one in three of three, of different lengths."""
    records = []
    for i in range(rows):
        n = 3 if i % 3 == 0 else 4
        texts = [sentence(draw, int(draw.integers(1, 4))) for _ in range(n)]
        letters = list("ABCD"[:n])
        choices = {"text": texts, "label": letters}
        records.append({"question": sentence(draw), "choices": choices, "answerKey": letters[int(draw.integers(n))]})
    return pd.DataFrame(records)


def mmlu_rows(draw: np.random.Generator, rows: int) -> pd.DataFrame:
    choices = [[sentence(draw, 2) for _ in range(4)] for _ in range(rows)]
    questions = [sentence(draw) for _ in range(rows)]
    return pd.DataFrame({"question": questions, "choices": choices, "answer": draw.integers(4, size=rows)})


def write_split(rows: pd.DataFrame, folder: Path, config: str, split: str) -> None:
    path = folder / config / f"{split}-00000-of-00001.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    rows.to_parquet(path, index=False)


@pytest.fixture(scope="module")
def staged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made-up data in the layouts of the repositories that the tasks read, without READMEs."""
    folder, draw = tmp_path_factory.mktemp("staged"), np.random.default_rng(0)
    write_split(arc_rows(draw, 15), folder, "ARC-Easy", "test")
    write_split(arc_rows(draw, 9), folder, "ARC-Easy", "validation")
    texts = pd.DataFrame({name: [sentence(draw) for _ in range(12)] for name in ("text", "passage", "question")})
    boolq = texts.assign(label=draw.integers(2, size=12))
    write_split(boolq, folder, "boolq", "train")
    write_split(boolq[1:], folder, "boolq", "validation")
    options = {f"option{i}": [sentence(draw, 1) for _ in range(12)] for i in (1, 2)}
    blanks = texts["passage"] + " _ " + texts["text"]
    answers = draw.integers(1, 3, size=12).astype(str)
    write_split(pd.DataFrame({"sentence": blanks, **options, "answer": answers}), folder, "winogrande_xl", "validation")
    write_split(texts[:9], folder, "default", "test")
    sums = texts.assign(answer=[f"{text} #### {draw.integers(9)}" for text in texts["text"]])
    write_split(sums[:4], folder, "main", "train")
    write_split(sums[4:7], folder, "main", "test")
    pages = pd.DataFrame({"page": [sentence(draw, n) for n in (5, 200, 17)]})
    (folder / "wikitext-2-raw-v1").mkdir()
    pages.to_parquet(folder / "wikitext-2-raw-v1" / "wikitext-2-raw-v1-test.parquet", index=False)
    for subject, rows in HUMANITIES.items():
        write_split(mmlu_rows(draw, rows), folder, subject, "test")
        write_split(mmlu_rows(draw, 3), folder, subject, "dev")
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama over bytes, so that it tells all texts apart."""
    folder = tmp_path_factory.mktemp("bytes")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(["<end>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>").save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(vocabulary), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=512, initializer_range=0.3, eos_token_id=0, bos_token_id=None,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture
def model(checkpoint: Path) -> nn.Module:
    return LlamaForCausalLM.from_pretrained(checkpoint).eval()


def benchmark(name: str, **keys: Any) -> Any:
    return entries.task(**{"protocol": "lm_eval", "lm_eval_task": name, "batch_size": 4} | keys)


@pytest.fixture(scope="module")
def tokenizer(checkpoint: Path) -> Any:
    return AutoTokenizer.from_pretrained(checkpoint)


@pytest.fixture
def evaluate(model: nn.Module, tokenizer: Any, staged: Path) -> Callable[..., Outcome]:
    def run(name: str, folder: Path = staged, repository: str | None = None, **keys: Any) -> Outcome:
        return evaluate_benchmark(model, tokenizer, benchmark(name, **keys), folder, repository, WHERE)

    return run


@pytest.fixture(scope="module")
def command_line(staged: Path, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Returns the results and samples of the harness's own command line, by task, on the same files and checkpoint."""
    folder = tmp_path_factory.mktemp("command-line")
    reads = {name: (staged, *read) for name, read in READS.items()}
    if MMLU.exists():
        reads["mmlu_abstract_algebra"] = (MMLU, "abstract_algebra", 0)
    (folder / "tasks").mkdir()
    theirs = Path(lm_eval.tasks.__file__).parent
    index = lm_eval.tasks.TaskManager(include_defaults=False, include_path=[theirs / home for home in HOMES]).task_index
    for name, (data, config, shots) in reads.items():
        splits = {"train", "validation", "test", "dev"}
        files = {split: [str(f) for f in sorted((data / config).glob(f"*{split}*.parquet"))] for split in splits}
        definition: dict[str, Any] = {
            "include": str(index[name].yaml_path), "dataset_path": "parquet", "dataset_name": None,
            "num_fewshot": shots,
            "dataset_kwargs": {"data_files": {split: found for split, found in files.items() if found}},
        }  # fmt: skip
        definition |= {
            f"{kind}_split": None for kind in ("validation", "training") if not files[kind.removesuffix("ing")]
        }
        (folder / "tasks" / f"{name}.yaml").write_text(yaml.safe_dump(definition), encoding="utf-8")
    names = [name for name in reads if name.removeprefix("mmlu_") not in HUMANITIES]
    finished = subprocess.run(
        [
            sys.executable, "-m", "lm_eval", "--model", "hf", "--model_args", f"pretrained={checkpoint}",
            "--tasks", ",".join([*names, "mmlu_humanities"]), "--include_path", str(folder / "tasks"),
            "--device", "cpu", "--batch_size", "4", "--log_samples", "--output_path", str(folder / "out"),
        ],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "home"), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr[-3000:]
    (results,) = (folder / "out").rglob("results_*.json")
    samples = {}
    for path in (folder / "out").rglob("samples_*.jsonl"):
        name = path.name.removeprefix("samples_").rpartition("_")[0]
        samples[name] = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return {"results": json.loads(results.read_text(encoding="utf-8"))["results"], "samples": samples}


def scores(command_line: Mapping[str, Any], task: str, metric: str) -> dict[int, Any]:
    return {sample["doc_id"]: sample[metric] for sample in command_line["samples"][task]}


@pytest.mark.parametrize(
    ("name", "metric", "theirs"),
    [
        ("arc_easy", "accuracy", "acc"),
        ("arc_easy", "accuracy_norm", "acc_norm"),
        ("boolq", "accuracy", "acc"),
        ("winogrande", "accuracy", "acc"),
        ("lambada_openai", "accuracy", "acc"),
    ],
)
def test_a_task_in_memory_is_that_of_the_command_line(
    command_line: Mapping[str, Any], evaluate: Callable[..., Outcome], name: str, metric: str, theirs: str
) -> None:
    outcome = evaluate(name, metric=metric, shots=READS[name][1])
    assert outcome.value == command_line["results"][name][f"{theirs},none"]
    assert dict(zip(outcome.examples["id"], outcome.examples["score"], strict=True)) == scores(
        command_line, name, theirs
    )
    assert set(outcome.examples["group"]) == {name}
    assert outcome.n == len(outcome.examples)


def test_generated_answers_are_those_of_the_command_line(
    command_line: Mapping[str, Any], evaluate: Callable[..., Outcome]
) -> None:
    outcome = evaluate("gsm8k", metric="exact_match,flexible-extract", shots=1)
    assert outcome.value == command_line["results"]["gsm8k"]["exact_match,flexible-extract"]
    assert outcome.others == {"exact_match,strict-match": command_line["results"]["gsm8k"]["exact_match,strict-match"]}
    said = {
        s["doc_id"]: s["filtered_resps"][0]
        for s in command_line["samples"]["gsm8k"]
        if s["filter"] == "flexible-extract"
    }
    assert dict(zip(outcome.examples["id"], outcome.examples["prediction"], strict=True)) == said
    assert any(answer != "[invalid]" for answer in said.values()), "some answers have numbers"
    assert outcome.chance == 0.0


@pytest.mark.parametrize("name", ["arc_easy", "boolq", "winogrande"])
def test_the_loss_is_that_of_the_right_choice_and_the_prediction_the_likeliest(
    command_line: Mapping[str, Any], evaluate: Callable[..., Outcome], name: str
) -> None:
    table = evaluate(name, shots=READS[name][1]).examples.set_index("id")
    for sample in command_line["samples"][name]:
        likelihoods = [float(answer[0]) for answer in sample["filtered_resps"]]
        row = table.loc[sample["doc_id"]]
        assert row["prediction"] == str(int(np.argmax(likelihoods)))
        assert row["loss"] == pytest.approx(-likelihoods[int(row["label"])], abs=1e-4)
        assert row["score"] == (row["prediction"] == row["label"])


def test_the_prediction_is_the_one_that_the_metric_counts(evaluate: Callable[..., Outcome]) -> None:
    table = evaluate("arc_easy", metric="accuracy_norm").examples
    np.testing.assert_array_equal(table["score"] == 1, table["prediction"] == table["label"])


def test_a_group_in_memory_is_that_of_the_command_line(
    command_line: Mapping[str, Any], evaluate: Callable[..., Outcome]
) -> None:
    outcome = evaluate("mmlu_humanities", shots=2)
    assert outcome.value == pytest.approx(command_line["results"]["mmlu_humanities"]["acc,none"], rel=1e-12)
    assert outcome.notes == [], "the harness weights each example alike, too"
    assert outcome.n == sum(HUMANITIES.values())
    assert not outcome.examples.duplicated(["group", "id"]).any()
    for subject, rows in HUMANITIES.items():
        name = f"mmlu_{subject}"
        of_task = outcome.examples[outcome.examples["group"] == name]
        assert len(of_task) == rows
        assert dict(zip(of_task["id"], of_task["score"], strict=True)) == scores(command_line, name, "acc")


def test_word_perplexity_is_that_of_the_command_line(
    command_line: Mapping[str, Any], evaluate: Callable[..., Outcome], tokenizer: Any, staged: Path
) -> None:
    outcome = evaluate("wikitext", metric="word_perplexity")
    results = command_line["results"]["wikitext"]
    assert outcome.value == pytest.approx(results["word_perplexity,none"], rel=1e-6)
    assert outcome.others["bits_per_byte"] == pytest.approx(results["bits_per_byte,none"], rel=1e-6)
    table = outcome.examples
    assert math.exp((table["loss"] * table["n"]).sum() / table["n"].sum()) == outcome.value
    pages = pd.read_parquet(staged / "wikitext-2-raw-v1")["page"]
    words = [len(page.split(" ")) for page in pages]
    assert table["n"].tolist() == words
    assert outcome.n == sum(words)
    # An even guess over 257 tokens, for as many tokens as the pages have bytes.
    assert outcome.chance == pytest.approx(len(tokenizer) ** (pages.str.len().sum() / sum(words)))
    assert table["score"].isna().all()


def test_real_mmlu_is_that_of_the_command_line(
    command_line: Mapping[str, Any], evaluate: Callable[..., Outcome]
) -> None:
    if not MMLU.exists():
        pytest.skip("no ../shared/hub")
    outcome = evaluate("mmlu_abstract_algebra", folder=MMLU, repository="cais/mmlu")
    assert outcome.value == command_line["results"]["mmlu_abstract_algebra"]["acc,none"]
    assert dict(zip(outcome.examples["id"], outcome.examples["score"], strict=True)) == scores(
        command_line, "mmlu_abstract_algebra", "acc"
    )
    rows = pd.read_parquet(MMLU / "abstract_algebra" / "test-00000-of-00001.parquet")
    assert outcome.examples["label"].tolist() == rows["answer"].astype(str).tolist()
    assert outcome.chance == 0.25
    assert outcome.n == 100


def test_chance_is_the_mean_over_items_of_one_in_their_choices(evaluate: Callable[..., Outcome]) -> None:
    # Five of fifteen items have three choices.
    assert evaluate("arc_easy").chance == pytest.approx((5 / 3 + 10 / 4) / 15)
    assert evaluate("lambada_openai").chance == 0.0


def test_a_model_of_zeros_takes_the_first_choice_everywhere(
    evaluate: Callable[..., Outcome], model: nn.Module, staged: Path
) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    outcome = evaluate("mmlu_professional_law")
    right = pd.read_parquet(staged / "professional_law" / "test-00000-of-00001.parquet")["answer"]
    assert outcome.value == (right == 0).mean()
    # Every token is as likely as any other: two tokens, the space and the letter.
    np.testing.assert_allclose(outcome.examples["loss"], 2 * math.log(257), rtol=1e-5)
    even = evaluate("wikitext", metric="word_perplexity")
    assert even.value == pytest.approx(even.chance, rel=1e-4)


def test_another_split_can_be_evaluated(evaluate: Callable[..., Outcome]) -> None:
    assert evaluate("arc_easy", split="validation").n == 9
    assert evaluate("arc_easy", limit=4).n == 4


def test_out_of_memory_makes_batches_smaller_and_changes_nothing(
    evaluate: Callable[..., Outcome], model: nn.Module, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    before = evaluate("boolq", shots=2)
    forward, sizes = model.forward, []

    def small(ids: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        sizes.append(len(ids))
        if len(ids) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return forward(ids, *args, **kwargs)

    monkeypatch.setattr(model, "forward", small)
    with caplog.at_level(logging.WARNING):
        after = evaluate("boolq", shots=2)
    assert max(sizes) == 4
    assert "starting over with batches of 2" in caplog.text
    assert after.value == before.value
    pd.testing.assert_frame_equal(after.examples, before.examples, rtol=1e-4)


@pytest.mark.parametrize(
    ("error", "seen", "message"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), UserError,
         r"batch_size and max_length: found too little memory for a single sequence"),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), RuntimeError, "mat1"),
    ],
)  # fmt: skip
def test_only_want_of_memory_is_the_users_to_mend(
    evaluate: Callable[..., Outcome], model: nn.Module, monkeypatch: pytest.MonkeyPatch, error: Exception,
    seen: type[Exception], message: str,
) -> None:  # fmt: skip
    def broken(*args: Any, **kwargs: Any) -> Any:
        raise error

    monkeypatch.setattr(model, "forward", broken)
    with pytest.raises(seen, match=message):
        evaluate("boolq")


def test_nothing_reaches_for_the_network(evaluate: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def refuse(*args: Any, **kwargs: Any) -> Any:
        asked.append(args)
        raise OSError("no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert evaluate("arc_easy").n == 15
    assert asked == []


def test_the_second_model_is_not_given_the_answers_of_the_first(
    evaluate: Callable[..., Outcome], model: nn.Module, tmp_path: Path, staged: Path
) -> None:
    """Nor are rows that have changed in place read from a cache."""
    write_split(arc_rows(np.random.default_rng(1), 5), tmp_path, "ARC-Easy", "test")
    first = evaluate("arc_easy", folder=tmp_path)
    write_split(arc_rows(np.random.default_rng(2), 7), tmp_path, "ARC-Easy", "test")
    assert evaluate("arc_easy", folder=tmp_path).n == 7 != first.n


def test_requests_that_are_cut_are_counted(evaluate: Callable[..., Outcome], staged: Path) -> None:
    length = 90
    rows = pd.read_parquet(staged / "ARC-Easy" / "test-00000-of-00001.parquet")
    too_long = 0
    for question, choices in zip(rows["question"], rows["choices"], strict=True):
        for choice in choices["text"]:
            # The last token is predicted and not read.
            too_long += len(f"Question: {question}\nAnswer: {choice}") - 1 > length
    assert 0 < too_long < 55
    assert evaluate("arc_easy", max_length=length).notes == [
        f"{too_long} requests cut at their start to the longest sequence"
    ]
    assert evaluate("arc_easy").notes == []


@pytest.mark.parametrize(
    ("name", "keys", "message"),
    [
        ("arc_eesy", {}, r"lm_eval_task arc_eesy: found the name 'arc_eesy'.*write 'arc_easy' instead"),
        ("arc_easy", {"repository": "cais/mmlu"}, r"reads the repository allenai/ai2_arc.*write `repository: "),
        ("arc_challenge", {}, r"no files of the split 'test' of the configuration 'ARC-Challenge'.*ARC-Challenge/test"),
        ("arc_easy", {"shots": 1}, r"no files of the split 'train' of the configuration 'ARC-Easy'"),
        ("arc_easy", {"metric": "f1"}, r"key metric: found 'f1'; expected one of 'accuracy', 'accuracy_norm'"),
        ("wikitext", {"metric": "accuracy"}, r"found 'accuracy'; expected one of 'word_perplexity'"),
        ("mmlu_philosophy", {"shots": 9}, r"9 shots and 3 examples.*write `shots: 3`"),
        ("boolq", {"shots": 2, "split": "train"}, r"key split: found 'train', from which the examples"),
        ("arc_easy", {"max_length": 513}, r"key max_length: found 513 tokens; expected at most 512"),
        ("gsm8k", {"metric": "exact_match", "shots": 0}, r"one of 'exact_match,strict-match', 'exact_match,flexible-"),
        ("squad_completion", {}, r"found a task whose data are not simply a split of a dataset.*choose another task"),
        ("humaneval", {}, r"found a task that runs what the model writes as a program.*choose another task"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_with_its_mend(
    evaluate: Callable[..., Outcome], name: str, keys: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        evaluate(name, **keys)
    assert caught.value.where.startswith(WHERE)


@pytest.mark.parametrize("row", [0, 3])
@pytest.mark.parametrize("answer", ["E", ""])
def test_an_item_without_its_answer_is_refused(
    evaluate: Callable[..., Outcome], tmp_path: Path, row: int, answer: str
) -> None:
    rows = arc_rows(np.random.default_rng(0), 5)
    rows.loc[row, "answerKey"] = answer
    write_split(rows, tmp_path, "ARC-Easy", "test")
    with pytest.raises(UserError) as caught:
        evaluate("arc_easy", folder=tmp_path)
    assert "arc_easy" in caught.value.where
    assert str(tmp_path) in caught.value.where
    assert ("row 3" in caught.value.where) if row else ("the first one" in caught.value.found)


@pytest.mark.parametrize("answer", [-1, 4, None])
def test_a_place_outside_the_choices_is_no_answer(
    evaluate: Callable[..., Outcome], tmp_path: Path, answer: int | None
) -> None:
    """The harness itself would count the item as wrong."""
    rows = mmlu_rows(np.random.default_rng(0), 4)
    rows["answer"] = rows["answer"].astype("Int64")
    rows.loc[2, "answer"] = answer
    write_split(rows, tmp_path, "world_religions", "test")
    with pytest.raises(UserError, match=r"split test \('.*test-00000-of-00001.parquet'\), row 2: found an answer that"):
        evaluate("mmlu_world_religions", folder=tmp_path)
    assert evaluate("mmlu_world_religions", folder=tmp_path, limit=2).n == 2


def test_an_answer_that_is_not_a_number_is_refused(
    evaluate: Callable[..., Outcome], model: nn.Module, staged: Path
) -> None:
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[0, 0] = float("nan")
    with pytest.raises(UserError, match=r"task arc_easy: found a log-likelihood that is NaN.*in 15 of 15 examples"):
        evaluate("arc_easy")


def test_a_tokenizer_without_a_first_token_is_refused(model: nn.Module, staged: Path, tmp_path: Path) -> None:
    tiny.write_llama(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"neither `bos_token` nor `eos_token`"):
        evaluate_benchmark(model, tokenizer, benchmark("arc_easy"), staged, None, WHERE)


def test_a_task_is_found_without_reading_all_definitions() -> None:
    manager = benchmark_tasks._manager("hellaswag")
    assert "hellaswag" in manager.all_subtasks
    assert len(manager.all_tasks) < 100


@pytest.mark.parametrize(
    ("path", "config", "split"),
    [
        ("anatomy/test-00000-of-00001.parquet", "anatomy", "test"),
        ("anatomy/test/0000.parquet", "anatomy", "test"),
        ("data/validation-00000-of-00001.parquet", None, "validation"),
        ("data/validation-00000-of-00001.parquet", "default", "validation"),
        ("piqa_validation.parquet", None, "validation"),
        ("wikitext-2-raw-v1/wikitext-2-raw-v1-test.parquet", "wikitext-2-raw-v1", "test"),
        ("test.jsonl", None, "test"),
    ],
)
def test_files_are_found_by_the_layouts_of_the_hub(tmp_path: Path, path: str, config: str | None, split: str) -> None:
    for name in (path, "other/train-00000-of-00001.parquet", "partial-test/0000.parquet", "notes/test.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert split_files(tmp_path, config, split, WHERE) == [tmp_path / path]


def test_the_readme_decides_over_the_layout(tmp_path: Path) -> None:
    for name in ("a.parquet", "b.parquet", "c.parquet", "one/test.parquet"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    configs = [
        {"config_name": "one", "data_files": [{"split": "test", "path": ["a.*", "b.*"]}]},
        {"config_name": "two", "default": True, "data_files": "c.parquet"},
    ]
    head = yaml.safe_dump({"licence": "mit", "configs": configs})
    (tmp_path / "README.md").write_text(f"---\n{head}---\n\nText.\n", encoding="utf-8")
    assert [p.name for p in split_files(tmp_path, "one", "test", WHERE)] == ["a.parquet", "b.parquet"]
    assert [p.name for p in split_files(tmp_path, None, "train", WHERE)] == ["c.parquet"]
    (tmp_path / "README.md").write_text("---\n- a list\n---\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"README.md: found a head that cannot be read.*or delete the file"):
        split_files(tmp_path, "one", "test", WHERE)


def test_several_configurations_are_not_mixed(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "test.parquet").touch()
    with pytest.raises(UserError, match="the split 'test' of several configurations, 'one', 'two'"):
        split_files(tmp_path, None, "test", WHERE)
