"""Prints, for every family of tiny models, what is pruned and why the rest is not: `python tests/manifest_table.py`."""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[1] / "workflow" / "scripts")]

import families  # noqa: E402


def main() -> None:
    """Print the table."""
    print("| Family | Tensors | Pruned | Share of weights | Blocks | Left dense |")
    print("|---|---|---|---|---|---|")
    for name in families.FAMILIES:
        with tempfile.TemporaryDirectory() as folder:
            rows = families.manifest(families.save(name, Path(folder)))
        pruned = [m for m in rows if m.pruned]
        share = sum(m.size for m in pruned) / sum(m.size for m in rows)
        left = Counter(m.reason for m in rows if not m.pruned)
        reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(left.items()))
        blocks = len({m.block for m in pruned})
        print(f"| {name} | {len(rows)} | {len(pruned)} | {100 * share:.0f} % | {blocks} | {reasons} |", flush=True)


if __name__ == "__main__":
    main()
