"""Put the findings of several studies into one table, and print it as Markdown; needs no Snakemake."""

import argparse
import sys
from pathlib import Path

from essential_sparsity.errors import UserError
from essential_sparsity.findings.tables import ALL_FINDINGS
from essential_sparsity.report.gathered import findings_markdown, gather_findings
from essential_sparsity.tables import write_table


def parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    top = argparse.ArgumentParser(description=__doc__)
    top.add_argument("tables", type=Path, nargs="+", help="findings.parquet of each study")
    top.add_argument("--to", type=Path, default=Path("results/findings.parquet"), help="the table to write")
    return top


def main() -> int:
    """Write the table and print it; return the exit status."""
    arguments = parser().parse_args()
    try:
        found = gather_findings(arguments.tables)
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    write_table(found, ALL_FINDINGS, arguments.to)
    print(findings_markdown(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
