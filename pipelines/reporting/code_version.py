"""Which code made a result."""

import hashlib
import subprocess
from typing import Any

from cluster.session import ROOT


def code_version() -> dict[str, Any]:
    """Return commit and dirty flag, or a hash of the source tree where there is no git."""
    try:
        commit = _git("rev-parse", "HEAD")
        return {"commit": commit, "dirty": bool(_git("status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.CalledProcessError):
        state = hashlib.blake2b(digest_size=16)
        for path in sorted(
            p for folder in ("pipelines", "operators", "models", "cluster") for p in (ROOT / folder).rglob("*.py")
        ):
            state.update(str(path.relative_to(ROOT)).encode() + path.read_bytes())
        return {"tree": state.hexdigest()}


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()
