"""Probes of frozen features: scikit-learn, plain loops and the models' own outputs are the oracles."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from scipy.optimize import minimize
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor, nn

import entries
from essential_sparsity.data.pixels import PixelSettings, normalise
from essential_sparsity.data.tasks import Probe
from essential_sparsity.errors import UserError
from essential_sparsity.evaluation.features import features, has_cls_token, prefix_tokens
from essential_sparsity.evaluation.probes import LabelledImages, evaluate_probe, knn, linear_probe

WHERE = "model m, task probe"
SETTINGS = PixelSettings(1 / 255, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
KNN, LINEAR = entries.task("knn", batch_size=16), entries.task("linear_probe", batch_size=16)
SIZES = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "image_size": 8,
    "patch_size": 4,
}  # fmt: skip


def encoder(family: str, **changes: Any) -> Any:
    """A random encoder in eval mode."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**{**SIZES, **changes})
    model = getattr(transformers, f"{family}Model")(config)
    for p in model.parameters():  # norms and tokens that start at 0 or 1 would hide what is left out
        p.data += 0.1 * torch.randn_like(p)
    return model.eval()


def pictures(n: int, seed: int = 0, size: int = 8) -> Tensor:
    return torch.randint(0, 256, (n, 3, size, size), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def blobs(n: int, classes: int, width: int = 5, seed: int = 0, spread: float = 1.0) -> tuple[Tensor, np.ndarray]:
    """Points around one centre for each class."""
    centres = np.random.default_rng(99).normal(size=(classes, width))
    draw = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    points = centres[labels] + spread * draw.normal(size=(n, width))
    return torch.from_numpy(points.astype(np.float32)), labels


# --- Features ---


@torch.no_grad()
@pytest.mark.parametrize(
    ("family", "tokens", "changes"),
    [
        ("ViT", 1, {}),
        ("DeiT", 2, {}),
        ("Dinov2", 1, {}),
        ("Dinov2WithRegisters", 4, {"num_register_tokens": 3}),
        ("Beit", 1, {"use_mean_pooling": False}),
    ],
)
def test_features_are_the_cls_token_or_the_mean_of_the_patches(
    family: str, tokens: int, changes: dict[str, Any]
) -> None:
    model, images = encoder(family, **changes), pictures(7)
    hidden = model(pixel_values=normalise(images, SETTINGS)).last_hidden_state
    assert hidden.shape[1] == tokens + 4, "patches of 4 x 4 of images of 8 x 8"
    assert prefix_tokens(model) == tokens
    assert has_cls_token(model)
    # In batches of three: the last is smaller.
    torch.testing.assert_close(features(model, images, SETTINGS, "cls", WHERE, 3), hidden[:, 0])
    torch.testing.assert_close(features(model, images, SETTINGS, "mean", WHERE, 3), hidden[:, -4:].mean(1))


@torch.no_grad()
def test_the_cls_token_comes_after_the_final_norm() -> None:
    model = encoder("ViT")
    kept = model.layernorm.weight.data.clone(), model.layernorm.bias.data.clone()
    model.layernorm.weight.data.fill_(1.0)
    model.layernorm.bias.data.zero_()
    found = features(model, pictures(5), SETTINGS, "cls", WHERE, 5)
    torch.testing.assert_close(found.mean(1), torch.zeros(5), atol=1e-5, rtol=0)
    torch.testing.assert_close(found.var(1, unbiased=False), torch.ones(5), atol=1e-3, rtol=0)
    assert not torch.equal(kept[0], model.layernorm.weight)


@torch.no_grad()
def test_beits_mean_is_normalised_as_it_was_trained() -> None:
    model, images = encoder("Beit", use_mean_pooling=True), pictures(4)
    hidden = model(pixel_values=normalise(images, SETTINGS)).last_hidden_state
    expected = model.pooler.layernorm(hidden[:, 1:].mean(1))
    torch.testing.assert_close(features(model, images, SETTINGS, "mean", WHERE, 4), expected)


def test_a_masked_autoencoder_sees_all_patches() -> None:
    model, images = encoder("ViTMAE"), pictures(6)
    assert model.config.mask_ratio == 0.75
    first, second = (features(model, images, SETTINGS, "cls", WHERE, b) for b in (6, 2))
    torch.testing.assert_close(first, second)
    changed = images.clone()
    for patch in range(4):
        corner = (slice(4 * (patch // 2), 4 * (patch // 2) + 4), slice(4 * (patch % 2), 4 * (patch % 2) + 4))
        changed = images.clone()
        changed[:, :, corner[0], corner[1]] = 0
        moved = (features(model, changed, SETTINGS, "cls", WHERE, 6) - first).abs().amax(1)
        assert (moved > 1e-4).all(), "each patch has a say in each image"


@torch.no_grad()
def test_models_without_a_cls_token_are_averaged() -> None:
    torch.manual_seed(0)
    config = transformers.SwinConfig(image_size=8, patch_size=2, embed_dim=8, depths=[1, 1], num_heads=[1, 2],
                                     window_size=2)  # fmt: skip
    swin = transformers.SwinModel(config).eval()
    convolutional = transformers.ConvNextModel(
        transformers.ConvNextConfig(hidden_sizes=[4, 8], depths=[1, 1], num_stages=2, patch_size=2)
    ).eval()
    images = pictures(5)
    values = normalise(images, SETTINGS)
    hidden = swin(pixel_values=values).last_hidden_state
    torch.testing.assert_close(features(swin, images, SETTINGS, "mean", WHERE, 2), hidden.mean(1))
    hidden = convolutional(pixel_values=values).last_hidden_state
    torch.testing.assert_close(features(convolutional, images, SETTINGS, "mean", WHERE, 2), hidden.mean((2, 3)))
    for model in (swin, convolutional):
        with pytest.raises(UserError, match=rf"{WHERE}, key pooling: found 'cls' for a .*no CLS token.*pooling: mean"):
            features(model, images, SETTINGS, "cls", WHERE, 2)


def test_dropout_is_off_and_nothing_is_trained() -> None:
    model = encoder("ViT", hidden_dropout_prob=0.5).train()
    first = features(model, pictures(5), SETTINGS, "cls", WHERE, 5)
    assert torch.equal(first, features(model.train(), pictures(5), SETTINGS, "cls", WHERE, 5))
    assert not first.requires_grad


def test_half_precision_gives_features_in_float32() -> None:
    model, images = encoder("ViT"), pictures(5)
    expected = features(model, images, SETTINGS, "cls", WHERE, 5)
    found = features(model.to(torch.bfloat16), images, SETTINGS, "cls", WHERE, 5)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, atol=0.2, rtol=0.1)


def test_images_of_another_size_and_models_of_text_are_refused() -> None:
    with pytest.raises(UserError, match=rf"{WHERE}: found that ViTModel does not take the dataset's images"):
        features(encoder("ViT"), pictures(2, size=12), SETTINGS, "cls", WHERE, 2)
    sizes = {k: v for k, v in SIZES.items() if k not in {"image_size", "patch_size"}}
    bert = transformers.BertModel(transformers.BertConfig(vocab_size=9, **sizes))
    with pytest.raises(UserError, match=rf"{WHERE}: found that BertModel does not take the dataset's images"):
        features(bert, pictures(2), SETTINGS, "mean", WHERE, 2)


def test_features_that_are_not_finite_are_refused() -> None:
    model = encoder("ViT")
    model.layernorm.bias.data[0] = math.nan
    with pytest.raises(UserError, match=rf"{WHERE}: found features that are NaN or infinite for 3 images"):
        features(model, pictures(3), SETTINGS, "cls", WHERE, 2)


# --- The linear probe ---


def test_the_probe_is_logistic_regression_on_standardised_features() -> None:
    """The penalised likelihood is minimised here by scipy, from the formula alone."""
    classes, c = 3, 0.3
    train, labels = blobs(60, classes)
    test, _ = blobs(20, classes, seed=1)
    train, test = train * torch.tensor([1, 10, 100, 0.1, 1.0]) + 7, test * torch.tensor([1, 10, 100, 0.1, 1.0]) + 7
    mean, std = train.double().numpy().mean(0), train.double().numpy().std(0)
    x, y = (train.double().numpy() - mean) / std, np.eye(classes)[labels]

    def log_probabilities(points: np.ndarray, flat: np.ndarray) -> np.ndarray:
        weights = flat.reshape(classes, 6)
        logits = points @ weights[:, :5].T + weights[:, 5]
        return logits - np.log(np.exp(logits).sum(1, keepdims=True))

    def objective(flat: np.ndarray) -> float:
        penalty = 0.5 * (flat.reshape(classes, 6)[:, :5] ** 2).sum()
        return float(penalty - c * (y * log_probabilities(x, flat)).sum())

    best = minimize(objective, np.zeros(classes * 6), method="BFGS", options={"gtol": 1e-8}).x
    found, notes = linear_probe(train, labels, test, classes, replace(LINEAR, inverse_regularisation=c))
    assert notes == []
    np.testing.assert_allclose(found, log_probabilities((test.double().numpy() - mean) / std, best), atol=1e-2)


def test_a_regression_that_does_not_converge_is_noted() -> None:
    train, labels = blobs(200, 4, spread=3.0)
    few = replace(LINEAR, max_iterations=2, inverse_regularisation=1e6)
    assert linear_probe(train, labels, train, 4, few)[1] == ["the regression had not converged after 2 iterations"]
    assert linear_probe(train, labels, train, 4, LINEAR)[1] == []


def test_test_images_have_no_say_in_the_standardisation() -> None:
    train, labels = blobs(60, 3)
    test, _ = blobs(9, 3, seed=1)
    alone, _ = linear_probe(train, labels, test[:1], 3, LINEAR)
    beside, _ = linear_probe(train, labels, torch.cat([test[:1], 1000 + test]), 3, LINEAR)
    np.testing.assert_allclose(alone[0], beside[0], rtol=1e-9)
    assert np.isfinite(beside).all(), "belief that is next to nothing has a finite loss"


def test_two_classes_are_enough_for_both_probes() -> None:
    train, labels = blobs(40, 2, spread=0.1)
    test, gold = blobs(10, 2, seed=1, spread=0.1)
    for probe, task in ((linear_probe, LINEAR), (knn, KNN)):
        found, _ = probe(train, labels, test, 2, task)
        assert found.shape == (10, 2)
        np.testing.assert_allclose(np.exp(found).sum(1), 1)
        assert (found.argmax(1) == gold).all()


# --- Nearest neighbours ---


def votes_by_loops(train: np.ndarray, labels: np.ndarray, test: np.ndarray, classes: int, k: int, t: float) -> Any:
    """Wu et al. (2018), section 3.4, image by image."""
    shares = []
    for row in test:
        near = [float(row @ other / np.linalg.norm(row) / np.linalg.norm(other)) for other in train]
        chosen = sorted(range(len(train)), key=lambda i: -near[i])[:k]
        cast = [sum(math.exp(near[i] / t) for i in chosen if labels[i] == c) for c in range(classes)]
        shares.append([v / sum(cast) for v in cast])
    return np.array(shares)


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (5, 0.07), (20, 0.07), (20, 1.0), (500, 0.5)])
def test_neighbours_vote_as_the_formula_says(k: int, temperature: float) -> None:
    train, labels = blobs(90, 4, spread=1.5)
    test, _ = blobs(300, 4, seed=1, spread=1.5)  # more than a block
    found, _ = knn(train, labels, test, 4, replace(KNN, neighbours=k, temperature=temperature))
    expected = votes_by_loops(train.double().numpy(), labels, test.double().numpy(), 4, k, temperature)
    np.testing.assert_allclose(np.exp(found), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("k", [1, 7, 20])
def test_neighbours_vote_as_scikit_learn_does(k: int) -> None:
    train, labels = blobs(200, 5, spread=2.0)
    test, _ = blobs(100, 5, seed=1, spread=2.0)
    oracle = KNeighborsClassifier(
        n_neighbors=k, metric="cosine", algorithm="brute", weights=lambda distance: np.exp((1 - distance) / 0.07)
    ).fit(train.double().numpy(), labels)
    found, _ = knn(train, labels, test, 5, replace(KNN, neighbours=k, temperature=0.07))
    np.testing.assert_allclose(np.exp(found), oracle.predict_proba(test.double().numpy()), rtol=1e-7, atol=1e-12)


def test_the_length_of_a_feature_has_no_say() -> None:
    train, labels = blobs(50, 3)
    test, _ = blobs(20, 3, seed=1)
    lengths = torch.from_numpy(np.random.default_rng(0).uniform(0.01, 100, (50, 1)))
    found, _ = knn(train * lengths, labels, test * 7, 3, KNN)
    np.testing.assert_allclose(np.exp(found), np.exp(knn(train, labels, test, 3, KNN)[0]), rtol=1e-5, atol=1e-12)


def test_a_low_temperature_neither_overflows_nor_loses_the_nearest() -> None:
    train, labels = blobs(60, 3)
    test, _ = blobs(20, 3, seed=1)
    nearest, _ = knn(train, labels, test, 3, replace(KNN, neighbours=1, temperature=1.0))
    found, _ = knn(train, labels, test, 3, replace(KNN, neighbours=20, temperature=1e-5))
    assert (found.argmax(1) == nearest.argmax(1)).all()
    assert np.isfinite(found.max(1)).all()


def test_copies_at_the_edge_all_vote() -> None:
    """Two images that are the same image have the same say, whichever comes first."""
    train = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    found, _ = knn(
        train, np.array([0, 1, 1, 2]), torch.tensor([[1.0, 0.1]]), 3, replace(KNN, neighbours=1, temperature=0.1)
    )
    np.testing.assert_allclose(np.exp(found), [[1 / 3, 2 / 3, 0]])


# --- The protocol ---


def colours(n: int, seed: int, size: int = 8) -> LabelledImages:
    """Images that are told apart by how bright each colour is, with noise; the last class is the most frequent."""
    draw = np.random.default_rng(seed)
    names = ["red", "green", "blue", "blue"]
    labels = [names[i % 4] for i in range(n)]
    pixels = draw.integers(0, 120, (n, 3, size, size))
    for row, label in enumerate(labels):
        pixels[row, ["red", "green", "blue"].index(label)] += 100
    return LabelledImages([10 * i + 1 for i in range(n)], torch.from_numpy(pixels.astype(np.uint8)), labels)


def shuffled(images: LabelledImages, seed: int) -> LabelledImages:
    order = np.random.default_rng(seed).permutation(len(images.labels))
    return LabelledImages(
        [images.ids[i] for i in order], images.pixels[torch.from_numpy(order)], [images.labels[i] for i in order]
    )


@pytest.mark.parametrize("task", [KNN, LINEAR], ids=["knn", "linear"])
def test_an_outcome_can_be_recomputed_from_its_examples(task: Probe) -> None:
    train, test = colours(80, 0), colours(30, 1)
    outcome = evaluate_probe(encoder("ViT"), train, test, SETTINGS, task, WHERE)
    rows = outcome.examples
    assert list(rows) == ["id", "group", "label", "prediction", "score", "loss", "n"]
    assert rows["id"].tolist() == list(test.ids)
    assert rows["label"].tolist() == list(test.labels)
    assert outcome.value == rows["score"].mean() == (rows["label"] == rows["prediction"]).mean()
    assert outcome.n == rows["n"].sum() == 30
    assert outcome.chance == pd.Series(test.labels).value_counts().iloc[0] / 30
    assert outcome.value > 0.8 > outcome.chance, "colours can be told apart"
    assert (rows["loss"] >= 0).all()
    assert (rows.loc[rows["loss"] < math.log(2), "score"] == 1).all(), "more than half of the belief is the largest"
    assert outcome.notes == []


@pytest.mark.parametrize("task", [KNN, LINEAR], ids=["knn", "linear"])
def test_the_order_of_the_training_images_has_no_say(task: Probe) -> None:
    model, train, test = encoder("ViT"), colours(80, 0), colours(30, 1)
    first = evaluate_probe(model, train, test, SETTINGS, task, WHERE)
    second = evaluate_probe(model, shuffled(train, 5), test, SETTINGS, task, WHERE)
    assert first.value == second.value
    assert first.examples["prediction"].equals(second.examples["prediction"])
    np.testing.assert_allclose(first.examples["loss"], second.examples["loss"], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("task", [KNN, LINEAR], ids=["knn", "linear"])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_model_of_zeros_is_at_chance(task: Probe, seed: int) -> None:
    model = encoder("ViT")
    for parameter in model.parameters():
        parameter.data.zero_()
    outcome = evaluate_probe(model, shuffled(colours(80, 0), seed), colours(32, 1), SETTINGS, task, WHERE)
    assert outcome.value == outcome.chance == 0.5
    assert set(outcome.examples["prediction"]) == {"blue"}
    # It believes in each class as often as training saw it.
    expected = outcome.examples["label"].map({"red": 0.25, "green": 0.25, "blue": 0.5})
    np.testing.assert_allclose(np.exp(-outcome.examples["loss"]), expected, rtol=1e-3)


def test_a_probe_of_a_constant_model_is_at_chance() -> None:
    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.config = transformers.ViTConfig(**SIZES)
            self.cls_token = nn.Parameter(torch.randn(1, 1, 16, generator=torch.Generator().manual_seed(0)))

        def forward(self, pixel_values: Tensor) -> Any:
            hidden = self.cls_token.expand(len(pixel_values), 5, 16)
            return transformers.modeling_outputs.BaseModelOutput(last_hidden_state=hidden)

    for task in (KNN, LINEAR):
        outcome = evaluate_probe(Constant(), colours(80, 0), colours(32, 1), SETTINGS, task, WHERE)
        assert outcome.value == outcome.chance


def test_a_note_of_the_probe_reaches_the_outcome() -> None:
    few = replace(LINEAR, max_iterations=1)
    outcome = evaluate_probe(encoder("ViT"), colours(80, 0), colours(30, 1), SETTINGS, few, WHERE)
    assert list(outcome.notes) == ["the regression had not converged after 1 iterations"]


def test_classes_that_cannot_be_learnt_or_tested_are_refused() -> None:
    train, test = colours(8, 0), colours(8, 1)
    model = encoder("ViT")
    one = LabelledImages([0, 1], train.pixels[:2], ["red", "red"])
    with pytest.raises(UserError, match=rf"{WHERE}: found 1 class\(es\) among 2 training and 8 test images"):
        evaluate_probe(model, one, test, SETTINGS, KNN, WHERE)
    with pytest.raises(UserError, match=rf"{WHERE}: found 3 class\(es\) among 8 training and 0 test images"):
        evaluate_probe(model, train, LabelledImages([], train.pixels[:0], []), SETTINGS, KNN, WHERE)
    two = LabelledImages([0, 1], train.pixels[:2], ["red", "green"])
    with pytest.raises(UserError, match=rf"{WHERE}: found the classes 'blue' among the test images"):
        evaluate_probe(model, two, test, SETTINGS, KNN, WHERE)
