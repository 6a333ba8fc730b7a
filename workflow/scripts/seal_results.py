"""Seal the results of this folder, or check them: ``make seal`` and ``make check``."""

import shlex
import sys
from pathlib import Path

from essential_sparsity.planning.seal import SEAL, check, seal

RESULTS = Path("results")


def made_as(path: Path) -> Path:
    """Return the output that a file is, or that it lies in: Snakemake marks folders that it makes as a whole."""
    return next((folder for folder in path.parents if (folder / ".snakemake_timestamp").exists()), path)


def main(action: str, *study: str) -> int:
    """Seal or check; return the status to end with."""
    if action == "seal":
        files, read = seal(RESULTS)
        print(f"{RESULTS / SEAL}: {files} files, {read} of them new or changed")
        return 0
    if not (RESULTS / SEAL).exists():
        print(f"No {RESULTS / SEAL}: run `make seal` first", file=sys.stderr)
        return 2
    wrong = check(RESULTS)
    for name, what in wrong.items():
        print(f"{RESULTS / name} {what}")
    if not wrong:
        print("All results are as they were sealed")
        return 0
    command = [".venv/bin/python", "-m", "snakemake", "--cores", "all", *(["--configfile", *study] if study else [])]
    command += ["--force", "--", *dict.fromkeys(str(made_as(RESULTS / name)) for name in wrong)]
    print(f"\nTo make them again: {shlex.join(command)}\nTo keep them as they are: make seal")
    return 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
