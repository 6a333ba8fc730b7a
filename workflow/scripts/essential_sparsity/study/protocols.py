"""The protocols: all that rules, checks and planning ask of one, in its record. What it needs is known by its rule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

# The metric of the headline without another word, by the kind of a dataset whose labels are predicted.
_LABELLED = {"classes": "accuracy", "scores": "pearson", "spans": "squad_f1"}

# The keys of a task that prepared inputs depend on, by their kind.
KEYS = {
    "classes": ("max_length",), "scores": ("max_length",), "spans": ("max_length", "stride"), "images": (),
    "stream": ("window", "windows"), "documents": ("window", "windows"),
    "masked": ("window", "windows", "mask_probability", "seed"),
}  # fmt: skip


@dataclass(frozen=True)
class Protocol:
    """How a task is evaluated.

    Attributes:
        rule: The rule that evaluates, whose name its script and its need have, too.
        message: How the rule's message begins.
        reads: ``texts``, ``images``, or ``files`` as they are; empty where the dataset may be of texts or of images.
        inputs: The kind of prepared inputs by metric; empty where the dataset says it.
        predicted: The kind of what is predicted; empty where the dataset says it.
        metrics: The default metric by the kind of a dataset's labels; empty where no labels are read.
        trains: Whether the model is trained, and so has a head.
        draws: Whether the result depends on the seed: training draws, and so does a choice of examples.
    """

    rule: str
    message: str
    reads: str = ""
    inputs: Mapping[str, str] = field(default_factory=dict)
    predicted: str = ""
    metrics: Mapping[str, str] = field(default_factory=dict)
    trains: bool = False
    draws: bool = False


_LANGUAGE = ("evaluate_language_model", "Language modelling of")
_PROBE = Protocol(
    "evaluate_representation", "Representation of", reads="images", predicted="classes", metrics=_LABELLED, draws=True
)
PROTOCOLS = {
    "perplexity": Protocol(
        *_LANGUAGE, reads="texts", predicted="tokens",
        inputs={"perplexity": "stream", "word_perplexity": "documents"},
    ),
    "masked_tokens": Protocol(*_LANGUAGE, reads="texts", predicted="tokens", inputs={"masked_loss": "masked"}),
    "lm_eval": Protocol("evaluate_benchmark", "Benchmark of", reads="files"),
    "linear_probe": _PROBE,
    "knn": _PROBE,
    "finetune": Protocol("finetune_model", "Fine-tuning", metrics=_LABELLED, trains=True, draws=True),
}  # fmt: skip
# How the message of each rule that evaluates begins.
EVALUATIONS = {protocol.rule: protocol.message for protocol in PROTOCOLS.values()}
