"""Benchmarks of the lm-evaluation-harness on a model in memory, with the harness's own prompts and metrics."""

from __future__ import annotations

import logging
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import nn

from essential_sparsity.checkpoints.loading import check_length
from essential_sparsity.data.tasks import Benchmark
from essential_sparsity.errors import UserError, did_you_mean, quoted
from essential_sparsity.evaluation.benchmark_tasks import LoadedTasks, answers, check_answers, load_tasks, offline
from essential_sparsity.evaluation.outcomes import Outcome
from essential_sparsity.tables import Row

# Our names of the harness's metrics.
_OURS = {"acc": "accuracy", "acc_norm": "accuracy_norm"}
_THEIRS = {ours: theirs for theirs, ours in _OURS.items()}

# What lm-eval says of an item.
Sample = Mapping[str, Any]

WORD_PERPLEXITY = "word_perplexity"

_COLUMNS = ("id", "group", "label", "prediction", "score", "loss", "n")


def evaluate_benchmark(
    model: nn.Module, tokenizer: Any, task: Benchmark, folder: Path, repository: str | None, where: str
) -> Outcome:
    """Evaluate a task, group or tag of the lm-evaluation-harness.

    The harness builds the prompts, asks the model and scores the answers, as on its command line. What it reads are the
    staged files alone; nothing is fetched, and no answer is taken from a cache. (The key of the harness's own cache
    does not hold the model, so a sweep over sparsities would be given the answers of its first level.)

    Args:
        model: A causal language model of transformers, pruned in place, in eval mode.
        tokenizer: Its tokenizer.
        task: Its metric is ``accuracy``, ``accuracy_norm``, ``word_perplexity``, or the harness's name of a metric that
            is a mean over examples, with ``,filter`` where there are several.
        folder: The staged files of the repository that the task reads, laid out as there.
        repository: Its name on the hub; None if that is not known.
        where: What is evaluated, for messages.

    Returns:
        The metric over all examples: of a group with tasks of several sizes, each example weighs the same. An example's
        ``group`` is the name of its task; ``label`` and ``prediction`` are places among the choices of multiple choice,
        texts otherwise; ``loss`` is minus the log-likelihood of the right answer. Of word perplexity, an example is a
        document, ``loss`` is in nats a word and ``n`` the number of words.

    Raises:
        UserError: See :func:`load_tasks`; the metric is not one of the task's, an item has no answer, a log-likelihood
            is not finite, or memory does not suffice for a single sequence.
    """
    if task.max_length is not None:
        check_length(model, task.max_length, "max_length", where)
    _check_prefix(tokenizer, where)
    with tempfile.TemporaryDirectory() as scratch, offline():
        tasks = load_tasks(task, folder, repository, Path(scratch), where)
        metric, chosen_filter = _metric_of(tasks, task.metric, where)
        check_answers(tasks, task.limit, where)
        results, cut = _answered(model, tokenizer, tasks, task, where)
        samples = [
            (name, sample)
            for name in tasks.tasks
            for sample in results["samples"][name]
            if sample["filter"] == chosen_filter
        ]
        _check_finite(samples, where)
        if metric == WORD_PERPLEXITY:
            rows = [_document(name, sample, tokenizer) for name, sample in samples]
        else:
            rows = [_example(tasks.tasks[name], name, sample, metric) for name, sample in samples]
    table = pd.DataFrame(rows)
    value, chance = (_summed_up(table, column, metric) for column in ("value", "chance"))
    logging.info("%s: %s %.4f (chance %.4f) over %d examples", tasks.name, task.metric, value, chance, len(table))
    own = results["results"].get(tasks.name, {})
    return Outcome(
        value=value,
        n=int(table["n"].sum()),
        chance=chance,
        examples=table.assign(score=None if metric == WORD_PERPLEXITY else table["value"])[list(_COLUMNS)],
        others=_others(own, f"{metric},{chosen_filter}"),
        notes=_notes(own.get(f"{metric},{chosen_filter}"), value, cut),
    )


def _check_prefix(tokenizer: Any, where: str) -> None:
    """Check that there is a token to begin a text with, which the harness needs.

    Raises:
        UserError: There is none.
    """
    if tokenizer.bos_token_id is None and tokenizer.eos_token_id is None:
        raise UserError(
            where=f"{where}, tokenizer_config.json",
            found="neither `bos_token` nor `eos_token`",
            expected="one of them, for texts without a context",
            mend="name one in the tokenizer's configuration",
        )


def _metric_of(tasks: LoadedTasks, asked: str, where: str) -> tuple[str, str]:
    """Return the harness's names of a metric and of the filter of answers that it is of.

    Raises:
        UserError: Not all tasks have it, it is no mean over examples, or there are several filters and none is named.
    """
    from lm_eval.api.metrics import mean, weighted_perplexity

    def recomputable(name: str, aggregation: Callable[..., float]) -> bool:
        return aggregation is mean or (name == WORD_PERPLEXITY and aggregation is weighted_perplexity)

    name, _, chosen = _THEIRS.get(asked, asked).partition(",")
    metrics = [[m for m, how in task.aggregation().items() if recomputable(m, how)] for task in tasks.tasks.values()]
    shared = [m for m in metrics[0] if all(m in others for others in metrics)]
    filters = [[f["name"] for f in task.config.filter_list or [{"name": "none"}]] for task in tasks.tasks.values()]
    shared_filters = [f for f in filters[0] if all(f in others for others in filters)]
    full = [_our_name(m, f) for m in shared for f in shared_filters]
    if not chosen and len(shared_filters) == 1:
        chosen = shared_filters[0]
    if name not in shared or chosen not in shared_filters:
        raise UserError(
            where=f"{where}, lm_eval_task {tasks.name}, key metric",
            found=f"'{asked}'",
            expected=f"one of {quoted(full)}" if full else "a task with a metric that is a mean over examples",
            mend=did_you_mean(asked, full) if full else "choose another task",
        )
    return name, chosen


def _our_name(metric: str, chosen_filter: str) -> str:
    return _OURS.get(metric, metric) + ("" if chosen_filter == "none" else f",{chosen_filter}")


def _answered(
    model: nn.Module, tokenizer: Any, tasks: LoadedTasks, task: Benchmark, where: str
) -> tuple[dict[str, Any], int]:
    """Let a model answer, in smaller batches if memory does not suffice.

    Returns:
        What the harness returns, and how many of its requests were cut at the start to fit the model.

    Raises:
        UserError: Memory does not suffice for a single sequence.
    """
    from accelerate.utils.memory import find_executable_batch_size
    from lm_eval.evaluator import evaluate

    def answer(batch_size: int) -> tuple[dict[str, Any], int]:
        if batch_size < task.batch_size:
            logging.warning("out of memory: starting over with batches of %d", batch_size)
        cut: list[int] = []
        harness_model = _harness_model(model, tokenizer, batch_size, task.max_length, cut)
        tasks.seed()
        return evaluate(harness_model, tasks.loaded, limit=task.limit, bootstrap_iters=0), sum(cut)

    try:
        answered: tuple[dict[str, Any], int] = find_executable_batch_size(answer, task.batch_size)()
    except RuntimeError as error:
        if "No executable batch size" not in str(error):
            raise
        raise UserError(
            where=f"{where}, keys batch_size and max_length",
            found="too little memory for a single sequence",
            expected="memory for a batch of one",
            mend="lower `max_length`, give the job more memory, or use another device",
        ) from error
    return answered


def _harness_model(model: nn.Module, tokenizer: Any, batch_size: int, max_length: int | None, cut: list[int]) -> Any:
    """Return the harness's view of a model; it adds to ``cut`` the number of requests that it had to cut."""
    from lm_eval.models.huggingface import HFLM

    harness_model = HFLM(
        pretrained=model, tokenizer=tokenizer, backend="causal", batch_size=batch_size, max_length=max_length
    )
    longest, ask = harness_model.max_length, harness_model._loglikelihood_tokens

    def counting(requests: Sequence[tuple[Any, list[int], list[int]]], **options: Any) -> Any:
        # A sequence may be one token longer: the last one is predicted and not read.
        cut.append(sum(len(context) + len(continuation) > longest + 1 for _, context, continuation in requests))
        return ask(requests, **options)

    harness_model._loglikelihood_tokens = counting
    return harness_model


def _check_finite(samples: Sequence[tuple[str, Sample]], where: str) -> None:
    """Check that the model answered with numbers; the harness takes NaN for the first choice.

    Raises:
        UserError: A log-likelihood is NaN or infinite.
    """
    broken = [name for name, sample in samples if not all(map(math.isfinite, _log_likelihoods(sample)))]
    if broken:
        raise UserError(
            where=f"{where}, task {broken[0]}",
            found=f"a log-likelihood that is NaN or infinite in {len(broken)} of {len(samples)} examples",
            expected="finite ones",
            mend="store the model with `dtype: float32`; if it is, the checkpoint is damaged",
        )


def _log_likelihoods(sample: Sample) -> list[float]:
    """Return the log-likelihoods that a model answered with, one a request; none of generated text."""
    first = [answered[0] for answered in sample["resps"]]
    numbers = [answer[0] if isinstance(answer, tuple) else answer for answer in first]
    return [number for number in numbers if isinstance(number, float)]


def _document(group: str, sample: Sample, tokenizer: Any) -> Row:
    """Return the row of a document: nats a word, for the model and for one that knows nothing."""
    nats, words = -sample[WORD_PERPLEXITY][0], sample[WORD_PERPLEXITY][1]
    # An even guess costs the logarithm of the vocabulary's size for each token, however many a word has.
    tokens = len(tokenizer.encode(sample["arguments"][0][0]))
    return {
        "id": sample["doc_id"], "group": group, "label": "", "prediction": "", "loss": nats / words, "n": words,
        "value": nats / words, "chance": tokens * math.log(len(tokenizer)) / words,
    }  # fmt: skip


def _example(task: Any, group: str, sample: Sample, metric: str) -> Row:
    """Return the row of an example."""
    if task.OUTPUT_TYPE == "multiple_choice" and task.config.process_results is None:
        said = _choice(task, sample, metric)
    elif task.OUTPUT_TYPE == "loglikelihood":
        ((likelihood, greedy),) = sample["filtered_resps"]
        target = str(sample["target"])
        # The harness does not say what the model would have written instead.
        said = {"label": target, "prediction": target if greedy else "", "loss": -likelihood, "chance": 0.0}
    else:
        answer = sample["filtered_resps"][0] if task.OUTPUT_TYPE == "generate_until" else ""
        said = {"label": str(sample["target"]), "prediction": str(answer), "loss": None, "chance": 0.0}
    return {"id": sample["doc_id"], "group": group, "value": float(sample[metric]), "n": 1, **said}


def _choice(task: Any, sample: Sample, metric: str) -> Row:
    """Return what a model chose, as the metric counts it, and what is right."""
    choices = task.doc_to_choice(sample["doc"])
    likelihoods = np.array([likelihood for likelihood, _ in sample["filtered_resps"]])
    conditional, unconditional = likelihoods[: len(choices)], likelihoods[len(choices) :]
    lengths = {
        "acc_norm": [len(choice) for choice in choices],
        "acc_bytes": [len(choice.encode()) for choice in choices],
    }
    if metric == "acc_mutual_info":
        preferences = conditional - unconditional
    else:
        preferences = conditional / np.array(lengths.get(metric, 1), dtype=float)
    right, chosen = answers(task, sample["doc"], choices), int(np.argmax(preferences))
    return {
        # Of several right answers the one that was chosen, if it was: an item is right if the two columns agree.
        "label": str(chosen if chosen in right else right[0]),
        "prediction": str(chosen),
        "loss": -float(conditional[right[0]]) if len(right) == 1 else None,
        "chance": len(set(right)) / len(choices) if metric.startswith("acc") else 0.0,
    }


def _summed_up(table: pd.DataFrame, column: str, metric: str) -> float:
    """Return the mean of a column over all predictions; of nats a word, the perplexity."""
    if metric != WORD_PERPLEXITY:
        return float(table[column].sum() / len(table))
    nats = float((table[column] * table["n"]).sum() / table["n"].sum())
    return math.exp(nats)


def _others(own: Mapping[str, float], headline: str) -> dict[str, float]:
    """Return the harness's other metrics of a task or group by our names, without standard errors."""
    others = {}
    for key, value in own.items():
        metric, comma, chosen_filter = key.partition(",")
        if comma and key != headline and not metric.endswith("_stderr"):
            others[_our_name(metric, chosen_filter)] = float(value)
    return others


def _notes(own: float | None, value: float, cut: int) -> list[str]:
    """Return what a reader should know.

    Args:
        own: The harness's own figure for the name that was asked for; None of a tag, which it does not sum up.
        value: Ours.
        cut: How many requests lost their beginning.
    """
    notes = []
    if cut:
        notes.append(f"{cut} requests cut at their start to the longest sequence")
    if own is not None and not math.isclose(own, value, rel_tol=1e-9):
        notes.append(f"lm-eval itself weights each task of the group alike: {own:.6g}")
    return notes
