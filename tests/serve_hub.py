"""Serve a folder as a model hub on loopback: `python tests/serve_hub.py ../shared/hub`, then set HF_ENDPOINT.

The folder holds ``datasets/<owner>/<name>/`` and, perhaps, ``models/<owner>/<name>/``, as the hub lays them out.
"""

from __future__ import annotations

import sys
import threading
from pathlib import Path

from hub_server import serving


def main(root: Path) -> None:
    """Serve until the process is ended."""
    with serving() as hub:
        for kind in ("models", "datasets"):
            for folder in sorted((root / kind).glob("*/*")):
                hub.add_folder(f"{folder.parent.name}/{folder.name}", folder, kind=kind)
        print(f"HF_ENDPOINT={hub.endpoint}", flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
