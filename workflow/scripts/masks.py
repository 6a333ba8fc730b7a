"""Count, compare and apply masks from the command line; needs no Snakemake. Run it with --help."""

import argparse
import sys
from pathlib import Path

from essential_sparsity.errors import UserError
from essential_sparsity.pruning.tools import apply_mask, compare_masks, count_mask


def parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    top = argparse.ArgumentParser(description=__doc__)
    commands = top.add_subparsers(required=True)
    count = commands.add_parser("count", help="how many weights a mask removes of each matrix, as CSV")
    count.add_argument("mask", type=Path)
    count.set_defaults(run=lambda a: print(count_mask(a.mask).to_csv(index=False), end=""))
    compare = commands.add_parser("compare", help="Jaccard, cosine and overlap of what two masks keep, as CSV")
    compare.add_argument("first", type=Path)
    compare.add_argument("second", type=Path)
    compare.set_defaults(run=lambda a: print(compare_masks(a.first, a.second).to_csv(index=False), end=""))
    apply = commands.add_parser("apply", help="write a checkpoint's folder with a mask applied")
    apply.add_argument("checkpoint", type=Path, help="the folder that the mask was made of")
    apply.add_argument("mask", type=Path)
    apply.add_argument("destination", type=Path, help="a folder that does not exist")
    apply.set_defaults(run=lambda a: apply_mask(a.checkpoint, a.mask, a.destination))
    return top


def main() -> int:
    """Run a command; return the exit status."""
    arguments = parser().parse_args()
    try:
        arguments.run(arguments)
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
