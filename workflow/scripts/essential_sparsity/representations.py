"""What the frozen features of a vision encoder are worth: a linear probe and the nearest neighbours of its images."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor, nn

from essential_sparsity.batches import Ints, draw_training_rows, halving
from essential_sparsity.errors import UserError, first_line, quoted
from essential_sparsity.images import PixelSettings, normalise
from essential_sparsity.loading import load_model
from essential_sparsity.outcomes import Outcome
from essential_sparsity.prepared import Prepared
from essential_sparsity.progress import progress

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

# Tokens that stand before the patches, by the name of their parameter in transformers' models.
_CLS_TOKENS = frozenset({"cls_token", "class_embedding"})
_OTHER_TOKENS = frozenset({"distillation_token", "register_tokens"})

# Test images whose similarities to all training images are held at a time.
_BLOCK = 256
# Neighbours this much further away than the k-th are as near as it, but for rounding in float64.
_TIE = 1e-12


@dataclass(frozen=True)
class LabelledImages:
    """The images of one split.

    Attributes:
        ids: Rows of the prepared dataset.
        pixels: uint8, (n, channels, height, width).
        labels: The class of each image.
    """

    ids: Sequence[int]
    pixels: Tensor
    labels: Sequence[str]


# --- Features ---


def _own_parameters(model: nn.Module, names: frozenset[str]) -> list[nn.Parameter]:
    return [p for name, p in model.named_parameters() if name.rpartition(".")[2] in names]


def has_cls_token(model: nn.Module) -> bool:
    """Say whether an encoder puts a CLS token before the patches."""
    return bool(_own_parameters(model, _CLS_TOKENS))


def prefix_tokens(model: nn.Module) -> int:
    """Return how many tokens stand before the patches: CLS, DeiT's distillation token, registers."""
    width: int = model.config.hidden_size  # type: ignore[union-attr,assignment]
    return sum(p.numel() // width for p in _own_parameters(model, _CLS_TOKENS | _OTHER_TOKENS))


@torch.no_grad()
def features(
    model: nn.Module, pixels: Tensor, settings: PixelSettings, pooling: str, where: str, batch_size: int
) -> Tensor:
    """Return the encoder's representation of each image.

    Args:
        model: An encoder without a head, which is put into eval mode.
        pixels: uint8, (n, channels, height, width).
        settings: How the model's processor treats bytes.
        pooling: ``cls``: the CLS token after the final layer norm, as DINO is evaluated (Caron et al. 2021, section
            4.1); ``mean``: the mean over the patches, or over the positions of a feature map.
        where: What is evaluated, for messages.
        batch_size: Images a forward pass.

    Returns:
        float32 on the CPU, (n, width).

    Raises:
        UserError: No CLS token where one is asked for, a model that takes no such images, or features that are not
            finite.
    """
    if pooling == "cls" and not has_cls_token(model):
        raise UserError(
            where=f"{where}, key pooling",
            found=f"'cls' for a {type(model).__name__}, which has no CLS token",
            expected="'mean'",
            mend="write `pooling: mean` in a task of its own for this model",
        )
    model.eval()
    parameter = next(model.parameters())
    batches = pixels.split(batch_size)
    found = []
    for batch in progress(batches, "features", total=len(batches), unit="batches"):
        values = normalise(batch.to(parameter.device), settings).to(parameter.dtype)
        try:
            outputs = model(pixel_values=values, **_unmasked(model, values))
        except (TypeError, ValueError) as error:
            raise UserError(
                where=where,
                found=f"that {type(model).__name__} does not take the dataset's images ({first_line(error)})",
                expected="a vision encoder and a processor that makes images of the size it was trained on",
                mend="pair this task with a model of images, or correct `size` in its preprocessor_config.json",
            ) from error
        found.append(_pool(model, outputs, pooling).float().cpu())
    pooled = torch.cat(found)
    if not bool(torch.isfinite(pooled).all()):
        raise UserError(
            where=where,
            found=f"features that are NaN or infinite for {int((~torch.isfinite(pooled)).any(1).sum())} images",
            expected="finite features",
            mend="store the model with `dtype: float32`; if it is, the checkpoint is damaged",
        )
    return pooled


def _unmasked(model: nn.Module, values: Tensor) -> dict[str, Tensor]:
    """Return what makes a masked autoencoder see all patches, in their own order; nothing for other models."""
    config: Any = model.config
    if not hasattr(config, "mask_ratio"):
        return {}
    config.mask_ratio = 0.0
    patches = (values.shape[2] // config.patch_size) * (values.shape[3] // config.patch_size)
    return {"noise": torch.arange(patches, dtype=torch.float32, device=values.device).repeat(len(values), 1)}


def _pool(model: nn.Module, outputs: Any, pooling: str) -> Tensor:
    """Return (batch, width) of a model's outputs."""
    hidden: Tensor = outputs.last_hidden_state
    if hidden.ndim == 4:  # a feature map, (batch, width, height, width)
        return hidden.flatten(2).mean(2)
    if pooling == "cls":
        return hidden[:, 0]
    if getattr(model.config, "use_mean_pooling", False) and outputs.pooler_output is not None:
        # BEiT has its final layer norm after the mean.
        return outputs.pooler_output  # type: ignore[no-any-return]
    return hidden[:, prefix_tokens(model) :].mean(1)


# --- Probes: from features to the logarithm of each class's probability ---


def linear_probe(
    train: Tensor, labels: Integers, test: Tensor, classes: int, task: Mapping[str, Any]
) -> tuple[Floats, list[str]]:
    """Fit multinomial logistic regression to the features of ``train``, standardised by their own mean and variance.

    Args:
        train: (n, width).
        labels: (n,): numbers of the classes, each of which occurs.
        test: (m, width).
        classes: How many classes there are: what the labels say, too.
        task: ``inverse_regularisation`` (C of scikit-learn: the weight of the losses' sum beside half the square of
            the coefficients) and ``max_iterations`` of L-BFGS.

    Returns:
        Log-probabilities of the classes, (m, classes), and notes.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from threadpoolctl import threadpool_limits

    regression = LogisticRegression(C=task["inverse_regularisation"], max_iter=task["max_iterations"])
    probe = make_pipeline(StandardScaler(), regression)
    # The linear algebra below scikit-learn takes all cores of the machine unless told.
    with threadpool_limits(torch.get_num_threads()), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        probe.fit(train.double().numpy(), labels)
        logits = torch.from_numpy(np.asarray(probe.decision_function(test.double().numpy()), dtype=np.float64))
    notes = []
    for warning in caught:
        if issubclass(warning.category, ConvergenceWarning):
            notes.append(f"the regression had not converged after {task['max_iterations']} iterations")
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    if logits.ndim == 1:  # of two classes: the logit of the second
        logits = torch.stack([torch.zeros_like(logits), logits], dim=1)
    # Not the logarithm of a probability, which may be rounded to zero.
    return logits.log_softmax(dim=1).numpy(), notes


def knn(
    train: Tensor, labels: Integers, test: Tensor, classes: int, task: Mapping[str, Any]
) -> tuple[Floats, list[str]]:
    """Let the nearest training images vote, each with the weight ``exp(similarity / temperature)``.

    The rule of Wu et al. (2018, arXiv 1805.01978, section 3.4) that DINO uses (Caron et al. 2021, arXiv 2104.14294),
    by cosine similarity. Images as near as the k-th vote, too, so that the order of the training images has no say.

    Args:
        train: (n, width).
        labels: (n,): numbers of the classes.
        test: (m, width).
        classes: How many classes there are.
        task: ``neighbours`` (k; all, if there are fewer) and ``temperature``.

    Returns:
        Logarithms of the classes' shares of the votes, (m, classes): minus infinity for a class that got none; and
        no notes.
    """
    known = torch.nn.functional.normalize(train.double(), dim=1)
    numbers = torch.from_numpy(labels)
    k = min(task["neighbours"], len(known))
    votes = []
    for block in torch.nn.functional.normalize(test.double(), dim=1).split(_BLOCK):
        similarity = block @ known.T  # (block, n)
        kth = similarity.topk(k, dim=1).values[:, -1:]
        row, neighbour = (similarity >= kth - _TIE).nonzero(as_tuple=True)
        # Of a similarity of at most 1: nothing overflows at a low temperature.
        weight = torch.exp((similarity[row, neighbour] - similarity.amax(1)[row]) / task["temperature"])
        cast = torch.zeros(len(block), classes, dtype=torch.float64)
        votes.append(cast.index_put_((row, numbers[neighbour]), weight, accumulate=True))
    shares = torch.cat(votes)
    return (shares / shares.sum(1, keepdim=True)).log().numpy(), []


Probe = Callable[[Tensor, Integers, Tensor, int, Mapping[str, Any]], tuple[Floats, list[str]]]
PROBES: dict[str, Probe] = {"linear_probe": linear_probe, "knn": knn}


# --- The protocol ---


def load_encoder(checkpoint: Path, where: str) -> nn.Module:
    """Load a checkpoint's encoder without a head, in eval mode.

    Raises:
        UserError: transformers has no encoder for it.
    """
    from transformers import AutoModel

    return load_model(AutoModel, checkpoint, where, dtype=torch.float32).eval()


def labelled_images(
    data: Prepared, task: Mapping[str, Any], seed: int
) -> tuple[LabelledImages, LabelledImages, PixelSettings]:
    """Return the images to learn from, those to test on, and how bytes become what the model takes.

    Args:
        data: What :func:`preparation.prepare_images` made.
        task: ``train_examples``: how many the seed draws from ``train``.
        seed: Seed of the draw.
    """
    pixels, labels, classes = (
        data.blocks("pixels", tuple(data.about["shape"])),
        data.numbers("label"),
        data.about["classes"],
    )

    def taken(rows: Ints) -> LabelledImages:
        return LabelledImages(
            data.numbers("id")[rows].tolist(), torch.from_numpy(pixels[rows]), [classes[i] for i in labels[rows]]
        )

    train = draw_training_rows(data.split("train"), task["train_examples"], seed)
    return taken(train), taken(data.split("test")), PixelSettings(**data.about["pixels"])


def evaluate_probe(
    model: nn.Module, train: LabelledImages, test: LabelledImages, settings: PixelSettings, task: Mapping[str, Any],
    where: str,
) -> Outcome:  # fmt: skip
    """Evaluate an encoder by a probe of its frozen features.

    Args:
        model: An encoder without a head.
        train: What the probe is fitted to, or the neighbours are sought among.
        test: What it is tested on.
        settings: How the model's processor treats bytes.
        task: ``protocol`` (``linear_probe`` or ``knn``), ``pooling``, ``batch_size`` and the probe's own keys.
        where: What is evaluated, for messages.

    Returns:
        The accuracy. Chance is the share of the most frequent class among the test images. A loss is minus the
        logarithm of the gold class's probability, infinite where no neighbour is of that class.

    Raises:
        UserError: Fewer than two classes, one that training lacks, or as :func:`features` says.
    """
    classes = sorted(set(train.labels))
    if len(classes) < 2 or not len(test.labels):
        raise UserError(
            where=where,
            found=f"{len(classes)} class(es) among {len(train.labels)} training and {len(test.labels)} test images",
            expected="at least two classes to learn, and images to test on",
            mend="correct the dataset's labels and splits",
        )
    if unknown := sorted(set(test.labels) - set(classes)):
        raise UserError(
            where=where,
            found=f"the classes {quoted(unknown[:5])} among the test images, but not among the training images",
            expected="test images of classes that the probe has seen",
            mend="draw more training images, or correct the dataset's labels and splits",
        )
    number = {name: i for i, name in enumerate(classes)}
    labels, gold = (np.array([number[label] for label in split.labels]) for split in (train, test))
    known, asked = (
        halving(
            task["batch_size"], partial(features, model, split.pixels, settings, task["pooling"], where), "features"
        )
        for split in (train, test)
    )
    scores, notes = PROBES[task["protocol"]](known, labels, asked, len(classes), task)
    predictions = scores.argmax(axis=1)
    correct = predictions == gold
    accuracy = float(correct.mean())
    chance = float(np.bincount(gold).max() / len(gold))
    logging.info("accuracy %.4f on %d images; majority class %.4f", accuracy, len(gold), chance)
    for note in notes:
        logging.warning("%s", note)
    examples = pd.DataFrame(
        {
            "id": list(test.ids),
            "group": "",
            "label": list(test.labels),
            "prediction": [classes[i] for i in predictions],
            "score": correct.astype(np.float64),
            # Plus zero, since minus a certain zero would be written as -0.0.
            "loss": 0.0 - scores[np.arange(len(gold)), gold],
            "n": 1,
        }
    )
    return Outcome(accuracy, len(gold), chance, examples, notes=notes)
