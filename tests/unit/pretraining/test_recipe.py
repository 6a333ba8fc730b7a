"""Recipes: the steps that are kept, and what an example of an objective is."""

from __future__ import annotations

import entries
from essential_sparsity.checkpoints.steps import checkpoint_steps

SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}


def test_the_steps_for_measuring_come_besides_the_checkpoints() -> None:
    kept = {"architecture": SIZES, "steps": 100, "checkpoints": 4, "first_checkpoint": 10}
    spaced = set(checkpoint_steps(100, 4, 10))
    assert entries.recipe(**kept).measured_steps == sorted(spaced)
    assert set(entries.recipe(**kept, checkpoint_every=30).measured_steps) == spaced | {0, 30, 60, 90}


def test_an_image_is_its_patches_and_a_token_for_the_whole() -> None:
    sizes = {**SIZES, "model": "vit", "image_size": 32, "patch_size": 4}
    recipe = entries.recipe(objective="masked-image-modelling", architecture=sizes)
    assert recipe.tokens == 65, "8 by 8, and one"
    assert entries.recipe(architecture=SIZES, sequence_length=48).tokens == 48
