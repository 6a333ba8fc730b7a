"""Images from tables with a column a pixel, such as scikit-learn's digits or MNIST as CSV."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image

from essential_sparsity.data.kinds import PixelColumns
from essential_sparsity.data.tables import FILE, ROW, SPLIT, place_of
from essential_sparsity.errors import UserError


def images_of_columns(frame: pd.DataFrame, layout: PixelColumns, where: str) -> list[bytes]:
    """Return the image of each row, grey with 8 bits a pixel, as PNG.

    Args:
        frame: Rows, with their place.
        layout: Where the pixels are.
        where: The registry key, for messages.

    Raises:
        UserError: Fewer columns than pixels, or a value that is no number between black and white.
    """
    height, width, first = layout.height, layout.width, layout.first_column
    own = [name for name in frame.columns if name not in {SPLIT, FILE, ROW}]
    columns = own[first : first + height * width]
    if len(columns) < height * width:
        raise UserError(
            where=where,
            found=f"{len(columns)} columns from column {first} on, of {len(own)} in all",
            expected=f"{height * width}, one for each of {height} x {width} pixels",
            mend="correct `first_column`, `height` or `width`",
        )
    values = frame[columns].apply(pd.to_numeric, errors="coerce")
    _check_pixels(frame[columns], values, frame, layout.white, where)
    grey = (values.to_numpy(np.float64) * (255 / layout.white)).round().astype(np.uint8)
    return [_png(pixels) for pixels in grey.reshape(len(frame), height, width)]


def _check_pixels(written: pd.DataFrame, values: pd.DataFrame, frame: pd.DataFrame, white: float, where: str) -> None:
    numbers = values.to_numpy(np.float64)
    # Not a number compares false with every bound.
    wrong = np.argwhere(~((numbers >= 0) & (numbers <= white)))
    if len(wrong):
        row, column = wrong[0]
        header = row == 0 and isinstance(written.iloc[0, column], str)
        raise UserError(
            where=f"{where}, {place_of(frame.iloc[row])}, column '{written.columns[column]}'",
            found=f"'{written.iloc[row, column]}'",
            expected=f"a number from 0 (black) to {white:g} (white)",
            mend="if the first row names the columns, write `format: csv`"
            if header
            else "correct the value, `white`, or the place of the pixels",
        )


def _png(pixels: npt.NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()
