"""Where a matrix stands in a model, and what is said of the weights at such a place."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

STATISTICS = {
    "fraction_below_0.001": "|w| < 0.001 (% of weights)",
    "fraction_below_0.01": "|w| < 0.01 (% of weights)",
    "fraction_below_0.1_std": "|w| < 0.1 std (% of weights)",
    "kurtosis": "Excess kurtosis (0 = normal)",
    "hoyer": "Hoyer sparsity (0 to 1)",
}
# What any statistic that is drawn is called.
LABELS = {
    **STATISTICS,
    "fraction_below_0.1_median": "|w| < 0.1 median |w| (% of weights)",
    "effective_rank": "Effective rank",
}


def matrix_places(names: Iterable[str]) -> pd.DataFrame:
    """Return ``name, block, kind`` of tensors, in the order given.

    The block is the first integer in the name, and the kind is what follows it: ``attention.self.query``. Where a model
    has several stacks of blocks, such as an encoder and a decoder, the kind starts with the stack's name.
    """
    rows = []
    for name in dict.fromkeys(names):
        parts = name.removesuffix(".weight").split(".")
        first = next((i for i, part in enumerate(parts) if part.isdigit()), None)
        if first is None:
            rows.append({"name": name, "stack": "", "block": 0, "kind": ".".join(parts)})
            continue
        stack, kind = ".".join(parts[:first]), ".".join(parts[first + 1 :]) or name
        rows.append({"name": name, "stack": stack, "block": int(parts[first]), "kind": kind})
    places = pd.DataFrame(rows, columns=["name", "stack", "block", "kind"])
    if places["stack"].nunique() > 1:
        places["kind"] = places["stack"].str.split(".").str[0] + ": " + places["kind"]
    return places[["name", "block", "kind"]]


def weighted_mean(weights: pd.DataFrame, along: str, statistic: str) -> pd.Series[float]:
    """Return a statistic's mean over the matrices at each ``along``, each weighted by its number of weights.

    For a fraction this is the fraction of the whole model; for kurtosis and Hoyer sparsity it is only a mean.
    """
    size = weights["n"].astype(float)
    parts = pd.DataFrame({along: weights[along], "product": weights[statistic] * size, "size": size})
    sums = parts.groupby(along)[["product", "size"]].sum()
    return sums["product"] / sums["size"]
