"""Plan every study under every profile, as `make lint` does; prints a line each and fails at the first that cannot."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    """Return the exit status."""
    studies = [ROOT / "config" / "config.yaml", *sorted((ROOT / "config" / "studies").glob("*.yaml"))]
    profiles = [ROOT / "profiles" / "default", *sorted((ROOT / "config" / "profiles").iterdir())]
    failed = 0
    for study in studies:
        for profile in profiles:
            with tempfile.TemporaryDirectory() as folder:
                command = [
                    sys.executable, "-m", "snakemake", "--dry-run", "--quiet", "all", "--cores", "2",
                    "--snakefile", ROOT / "Snakefile", "--directory", folder,
                    "--configfile", study, "--workflow-profile", profile,
                ]  # fmt: skip
                environment = {**os.environ, "XDG_CACHE_HOME": folder}
                result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
            name = f"{study.relative_to(ROOT)} with {profile.relative_to(ROOT)}"
            print(f"{'ok    ' if result.returncode == 0 else 'FAILED'} {name}", flush=True)
            if result.returncode != 0:
                print(result.stdout + result.stderr)
                failed += 1
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
