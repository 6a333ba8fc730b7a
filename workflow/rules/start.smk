"""How jobs start: where they import from, and from which process they are forked."""

import gc
import sys
from pathlib import Path

# Thousands of jobs are millions of objects that stay: to look through them for garbage again and again took a tenth of
# the time in which they are planned.
gc.set_threshold(200_000, 20, 50)

ROOT = Path(workflow.basedir)
sys.path[:0] = [str(ROOT / "workflow" / "scripts"), str(ROOT / "workflow")]

import seam

if sys.platform == "linux" and seam.is_main(workflow):
    seam.start_jobs_warm()
seam.escape_interpreter()
