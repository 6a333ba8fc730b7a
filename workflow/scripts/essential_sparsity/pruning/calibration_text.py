"""The text that calibration runs on."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn

from essential_sparsity.checkpoints.loading import check_length, load_tokenizer
from essential_sparsity.data.tokens import token_windows
from essential_sparsity.errors import UserError
from essential_sparsity.methods.statistics import Calibration


def calibration_batches(
    rows: pd.DataFrame, checkpoint: Path, model: nn.Module, calibration: Calibration, where: str
) -> list[Tensor]:
    """Return batches of token ids, (sequences, tokens) each.

    Texts are drawn in the order that the seed gives, joined by blank lines, and cut into sequences.

    Args:
        rows: Columns ``text`` and ``split``; only the texts of ``train`` are used, so that none is evaluated on.
        checkpoint: The folder with the tokenizer.
        model: The model, which must have a position for every token.
        calibration: How many sequences of which length.
        where: The registry key, for messages.

    Raises:
        UserError: Too little text, or sequences that are too long for the model.
    """
    check_length(model, calibration.length, "length", where)
    texts = rows.loc[rows["split"] == "train", "text"].sample(frac=1.0, random_state=calibration.seed).tolist()
    tokenizer = load_tokenizer(checkpoint, where)
    try:
        windows = token_windows(texts, tokenizer, calibration.length, calibration.sequences, where)
    except UserError as error:
        raise UserError(
            where=f"{where}, calibration text",
            found=error.found,
            expected=f"{calibration.sequences} sequences of {calibration.length} tokens",
            mend="lower `sequences` or `length`, or name a dataset with more text",
        ) from error
    return list(torch.from_numpy(windows).split(calibration.batch_size))
