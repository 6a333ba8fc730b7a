"""Made-up images to pre-train on."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
from PIL import Image

COLOURS = ["red", "green", "blue"]


def pictures(rows: int = 60, seed: int = 0, size: int = 9, noise: int = 120) -> pd.DataFrame:
    """Return noisy images with a bright colour each, of another size than a model's; every fifth is a test image."""
    draw = np.random.default_rng(seed)
    records = []
    for i in range(rows):
        pixels = draw.integers(0, noise, (size, size, 3))
        pixels[:, :, i % 3] += 100
        buffer = io.BytesIO()
        Image.fromarray(pixels.astype(np.uint8)).save(buffer, "PNG")
        split = "test" if i % 5 == 0 else "train"
        records.append({"id": 100 + i, "image": buffer.getvalue(), "label": COLOURS[i % 3], "split": split})
    return pd.DataFrame(records)
