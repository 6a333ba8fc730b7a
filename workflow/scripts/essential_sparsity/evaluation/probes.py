"""Linear probes and nearest neighbours on a frozen model's features."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from essential_sparsity.checkpoints.loading import load_model
from essential_sparsity.data.batches import Ints, draw_training_rows, halving
from essential_sparsity.data.pixels import PixelSettings
from essential_sparsity.data.prepared import Prepared
from essential_sparsity.data.tasks import LinearProbe, NearestNeighbours, Probe
from essential_sparsity.errors import UserError, quoted
from essential_sparsity.evaluation.features import Integers, features
from essential_sparsity.evaluation.outcomes import Outcome
from essential_sparsity.inference import Floats

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


def linear_probe(
    train: Tensor, labels: Integers, test: Tensor, classes: int, task: LinearProbe
) -> tuple[Floats, list[str]]:
    """Fit multinomial logistic regression to the features of ``train``, standardised by their own mean and variance.

    Args:
        train: (n, width).
        labels: (n,): numbers of the classes, each of which occurs.
        test: (m, width).
        classes: How many classes there are: what the labels say, too.
        task: C is the weight of the losses' sum beside half the square of the coefficients; the solver L-BFGS.

    Returns:
        Log-probabilities of the classes, (m, classes), and notes.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from threadpoolctl import threadpool_limits

    regression = LogisticRegression(C=task.inverse_regularisation, max_iter=task.max_iterations)
    probe = make_pipeline(StandardScaler(), regression)
    # The linear algebra below scikit-learn takes all cores of the machine unless told.
    with threadpool_limits(torch.get_num_threads()), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        probe.fit(train.double().numpy(), labels)
        logits = torch.from_numpy(np.asarray(probe.decision_function(test.double().numpy()), dtype=np.float64))
    notes = []
    for warning in caught:
        if issubclass(warning.category, ConvergenceWarning):
            notes.append(f"the regression had not converged after {task.max_iterations} iterations")
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    if logits.ndim == 1:  # of two classes: the logit of the second
        logits = torch.stack([torch.zeros_like(logits), logits], dim=1)
    # Not the logarithm of a probability, which may be rounded to zero.
    return logits.log_softmax(dim=1).numpy(), notes


def knn(
    train: Tensor, labels: Integers, test: Tensor, classes: int, task: NearestNeighbours
) -> tuple[Floats, list[str]]:
    """Let the nearest training images vote, each with the weight ``exp(similarity / temperature)``.

    The rule of Wu et al. (2018, arXiv 1805.01978, section 3.4) that DINO uses (Caron et al. 2021, arXiv 2104.14294),
    by cosine similarity. Images as near as the k-th vote, too, so that the order of the training images has no say.

    Args:
        train: (n, width).
        labels: (n,): numbers of the classes.
        test: (m, width).
        classes: How many classes there are.
        task: How many vote (all, if there are fewer), and at which temperature.

    Returns:
        Logarithms of the classes' shares of the votes, (m, classes): minus infinity for a class that got none; and
        no notes.
    """
    known = torch.nn.functional.normalize(train.double(), dim=1)
    numbers = torch.from_numpy(labels)
    k = min(task.neighbours, len(known))
    votes = []
    for block in torch.nn.functional.normalize(test.double(), dim=1).split(_BLOCK):
        similarity = block @ known.T  # (block, n)
        kth = similarity.topk(k, dim=1).values[:, -1:]
        row, neighbour = (similarity >= kth - _TIE).nonzero(as_tuple=True)
        # Of a similarity of at most 1: nothing overflows at a low temperature.
        weight = torch.exp((similarity[row, neighbour] - similarity.amax(1)[row]) / task.temperature)
        cast = torch.zeros(len(block), classes, dtype=torch.float64)
        votes.append(cast.index_put_((row, numbers[neighbour]), weight, accumulate=True))
    shares = torch.cat(votes)
    return (shares / shares.sum(1, keepdim=True)).log().numpy(), []


PROBES: dict[str, Callable[..., tuple[Floats, list[str]]]] = {"linear_probe": linear_probe, "knn": knn}


def load_encoder(checkpoint: Path, where: str) -> nn.Module:
    """Load a checkpoint's encoder without a head, in eval mode.

    Raises:
        UserError: transformers has no encoder for it.
    """
    from transformers import AutoModel

    return load_model(AutoModel, checkpoint, where, dtype=torch.float32).eval()


def labelled_images(data: Prepared, task: Probe, seed: int) -> tuple[LabelledImages, LabelledImages, PixelSettings]:
    """Return the images to learn from, those to test on, and how bytes become what the model takes.

    Args:
        data: What :func:`data.prepare.prepare_images` made.
        task: How many the seed draws from ``train``.
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

    train = draw_training_rows(data.split("train"), task.train_examples, seed)
    return taken(train), taken(data.split("test")), PixelSettings(**data.about["pixels"])


def evaluate_probe(
    model: nn.Module, train: LabelledImages, test: LabelledImages, settings: PixelSettings, task: Probe,
    where: str,
) -> Outcome:  # fmt: skip
    """Evaluate an encoder by a probe of its frozen features.

    Args:
        model: An encoder without a head.
        train: What the probe is fitted to, or the neighbours are sought among.
        test: What it is tested on.
        settings: How the model's processor treats bytes.
        task: The probe.
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
        halving(task.batch_size, partial(features, model, split.pixels, settings, task.pooling, where), "features")
        for split in (train, test)
    )
    scores, notes = PROBES[task.protocol](known, labels, asked, len(classes), task)
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
