"""The rows of a corpus that a training sees, which all objectives share."""

from __future__ import annotations

import numpy as np
import pandas as pd

from essential_sparsity.errors import UserError

# The split of training rows that a recipe leaves out.
WITHHELD = "withheld"


def withhold(corpus: pd.DataFrame, share: float, seed: int) -> pd.DataFrame:
    """Leave out training rows, drawn at random, so that a share of them remains.

    One permutation serves all shares of a seed: a smaller share lies within a larger one. Rows keep their order, and
    those of other splits stay as they are.

    Args:
        corpus: The prepared dataset, with the column ``split``.
        share: What remains of the split ``train``, in (0, 1].
        seed: Seed of the permutation.

    Returns:
        The same rows; those that are left out have the split ``withheld``.
    """
    train = np.flatnonzero(corpus["split"] == "train")
    order = np.random.default_rng(seed).permutation(train)
    splits = corpus["split"].to_numpy(dtype=object, copy=True)
    splits[order[round(share * len(train)) :]] = WITHHELD
    return corpus.assign(split=splits)


def check_batch(count: int, what: str, batch_size: int, where: str) -> None:
    """Check that there is enough to fill a batch.

    Args:
        count: Training examples that there are.
        what: What they are called, in the plural.
        batch_size: Examples of a batch.
        where: The recipe's place, for messages.

    Raises:
        UserError: There are fewer.
    """
    if count < batch_size:
        raise UserError(
            where=f"{where}.corpus",
            found=f"{count} {what} in the split 'train'",
            expected=f"at least one batch of {batch_size}",
            mend="use a larger corpus or `corpus_share`, or a smaller batch",
        )
