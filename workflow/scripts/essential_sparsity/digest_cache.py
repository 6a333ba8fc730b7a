"""Digests of all scripts, kept from run to run: to parse every module again takes longer than to plan a small study.

What is kept belongs to the bytes of all files and to the version of Python; time stamps have no say.
"""

from __future__ import annotations

import hashlib
import json
import sys
from contextlib import suppress
from pathlib import Path

from essential_sparsity.digests import code_digest
from essential_sparsity.files import write_json


def script_digests(root: Path, cache: Path) -> dict[str, str]:
    """Return the digest of every script and what it imports, as :func:`digests.code_digest` makes it, by file name.

    Args:
        root: The folder of the scripts, which holds the package.
        cache: A JSON file that is written where it is missing, damaged or of other code. Where it cannot be written,
            digests are made anew every time.
    """
    made_of = _content(root)
    with suppress(OSError, ValueError, LookupError, TypeError):
        kept = json.loads(cache.read_text(encoding="utf-8"))
        if kept["made_of"] == made_of:
            return {str(name): str(digest) for name, digest in kept["digests"].items()}
    digests = {script.name: code_digest(script, root) for script in sorted(root.glob("*.py"))}
    with suppress(OSError):
        write_json(cache, {"made_of": made_of, "digests": digests})
    return digests


def _content(root: Path) -> str:
    """Return the digest of every Python file's place and bytes, and of the version of Python."""
    digest = hashlib.sha256(repr(sys.version_info[:2]).encode())
    for file in sorted(root.rglob("*.py")):
        content = file.read_bytes()
        digest.update(f"\n{file.relative_to(root)} {len(content)}\n".encode() + content)
    return digest.hexdigest()
