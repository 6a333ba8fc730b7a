"""Compare the tables of two runs of a study: `python tests/tools/same_tables.py RESULTS OTHER_RESULTS [--within 1e-6]`.

All Parquet tables of the studies but those of costs, without the columns that measure the run itself. Says which rows
and columns differ, and by how much; exits with 1 if any do.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "workflow" / "scripts"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "helpers"))

from essential_sparsity.findings.tables import FINDINGS
from essential_sparsity.pretraining.losses import LOSSES
from essential_sparsity.pruning.tables import SIMILARITIES
from schemas import SCHEMAS

# What a run costs, and from which clone it was started, are no results.
COSTS = {"costs"}
MEASURED = {"seconds", "peak_memory_mb", "workflow_commit"}
KEYS = {schema.name: list(schema.unique) for schema in (*SCHEMAS.values(), LOSSES, SIMILARITIES, FINDINGS)}


def tables(results: Path) -> dict[str, Path]:
    """Return the tables of all studies below a folder of results, by study and name."""
    found = sorted(results.glob("studies/*/tables/*.parquet"))
    return {f"{path.parts[-3]}/{path.stem}": path for path in found if path.stem not in COSTS}


def by_key(frame: pd.DataFrame, name: str) -> pd.DataFrame:
    """Return a table with the columns that name a row as its index; by number where they are not known."""
    frame = frame.drop(columns=[column for column in MEASURED if column in frame])
    key = [column for column in KEYS.get(name, ()) if column in frame]
    return frame.set_index(key).sort_index() if key else frame


def distance(one: pd.Series, other: pd.Series) -> pd.Series:
    """Return how far apart values are: relative to the larger, infinite for what is no number; 0 where both miss it."""
    if all(pd.api.types.is_numeric_dtype(column) and column.dtype != bool for column in (one, other)):
        a, b = one.astype(float), other.astype(float)
        larger = np.maximum(a.abs(), b.abs()).where(lambda size: size > 0, 1.0)
        found = ((a - b).abs() / larger).where(a.ne(b) & ~(a.isna() & b.isna()), 0.0)
        return found.fillna(np.inf)
    same = one.eq(other).fillna(False).astype(bool) | (one.isna() & other.isna())
    return pd.Series(np.where(same, 0.0, np.inf), index=one.index)


def differences(one: pd.DataFrame, other: pd.DataFrame, name: str, within: float) -> Iterator[str]:
    """Yield a sentence for every way in which two tables differ."""
    one, other = by_key(one, name), by_key(other, name)
    if columns := set(one.columns) ^ set(other.columns):
        yield f"columns of one alone: {', '.join(sorted(columns))}"
    rows = one.index.symmetric_difference(other.index)
    if len(rows):
        yield f"{len(rows)} rows of one alone, such as {rows[0]}"
    shared = one.index.intersection(other.index)
    for column in one.columns.intersection(other.columns):
        apart = distance(one.loc[shared, column], other.loc[shared, column])
        if (wrong := apart > within).any():
            worst = apart.idxmax()
            yield (
                f"{column}: {int(wrong.sum())} of {len(shared)} rows differ, by {apart.max():.3g} at most, "
                f"as at {worst}: {one.loc[worst, column]!r} and {other.loc[worst, column]!r}"
            )


def compare(first: Path, second: Path, within: float = 0.0) -> list[str]:
    """Return what differs between the tables of two folders of results; an empty list if nothing does."""
    mine, theirs = tables(first), tables(second)
    if not mine or not theirs:
        return [f"no tables below {first if not mine else second}"]
    found = [f"{name}: only in one of the two" for name in sorted(mine.keys() ^ theirs.keys())]
    for name in sorted(mine.keys() & theirs.keys()):
        pair = (pd.read_parquet(mine[name]), pd.read_parquet(theirs[name]))
        found += [f"{name}: {text}" for text in differences(*pair, name.partition("/")[2], within)]
    return found


def main() -> int:
    """Print the differences, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("first", type=Path, help="a folder of results")
    parser.add_argument("second", type=Path, help="another")
    parser.add_argument("--within", type=float, default=0.0, help="largest relative difference of numbers; 0 for none")
    arguments = parser.parse_args()
    found = compare(arguments.first, arguments.second, arguments.within)
    print("\n".join(found) or f"{len(tables(arguments.first))} tables are the same")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
