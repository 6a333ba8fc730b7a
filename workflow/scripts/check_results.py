"""Check all results against the checksums that jobs noted, and remove what is damaged; needs no Snakemake."""

import argparse
import shlex
import sys
from pathlib import Path

from essential_sparsity.integrity import check_all


def parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    top = argparse.ArgumentParser(description=__doc__)
    top.add_argument("results", type=Path, nargs="?", default=Path("results"), help="the folder of results")
    return top


def main() -> int:
    """Print what was found; return the exit status: 1 if something is damaged."""
    checked, damaged = check_all(parser().parse_args().results)
    print(f"{checked} files were checked, {len(damaged)} are damaged")
    if damaged:
        print(f"They were removed. To make them anew: snakemake --cores all -- {shlex.join(damaged)}")
    return 1 if damaged else 0


if __name__ == "__main__":
    sys.exit(main())
