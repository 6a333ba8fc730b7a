"""Plan every study, and the default study under every profile, as `make lint` does; prints a line each.

What a profile changes (resources, threads, the executor) is the same for all studies: not every pair needs planning.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
STUDY, PROFILE = ROOT / "config" / "config.yaml", ROOT / "profiles" / "default"


def plan(study: Path, profile: Path) -> subprocess.CompletedProcess[str]:
    """Plan a study under a profile, in a folder where nothing has been made."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable, "-m", "snakemake", "--dry-run", "--quiet", "all", "--cores", "2",
            "--snakefile", ROOT / "Snakefile", "--directory", folder,
            "--configfile", study, "--workflow-profile", profile,
        ]  # fmt: skip
        environment = {**os.environ, "XDG_CACHE_HOME": folder}
        return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def main() -> int:
    """Return the exit status: 1 if a study cannot be planned."""
    studies = [STUDY, ROOT / ".test" / "config" / "config.yaml", *sorted((ROOT / "config" / "studies").rglob("*.yaml"))]
    others = sorted((ROOT / "config" / "profiles").iterdir())
    pairs = [*((study, PROFILE) for study in studies), *((STUDY, profile) for profile in others)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = list(pool.map(plan, *zip(*pairs, strict=True)))
    for (study, profile), result in zip(pairs, results, strict=True):
        name = f"{study.relative_to(ROOT)} with {profile.relative_to(ROOT)}"
        print(f"{'ok    ' if result.returncode == 0 else 'FAILED'} {name}")
        if result.returncode != 0:
            print(result.stdout + result.stderr)
    return min(1, sum(result.returncode != 0 for result in results))


if __name__ == "__main__":
    sys.exit(main())
