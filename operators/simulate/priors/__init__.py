"""Priors fitted to recorded conversations. Each JSON file in this folder is a preset, named by its file."""

import json
from functools import cache
from pathlib import Path

from operators.errors import InputError
from operators.simulate.priors.prior import Prior

_FILES = {path.stem: path for path in sorted(Path(__file__).parent.glob("*.json"))}
PRESETS = tuple(_FILES)
"""Names of the presets."""


@cache
def prior_of(name: str) -> Prior:
    """Return a preset, or the prior in a JSON file written by `hubbub data fit`.

    Raises:
        InputError: the name is neither.
    """
    try:
        return Prior.from_json(json.loads(_FILES.get(name, Path(name)).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise InputError(
            f"converse.prior {name} is neither a preset ({', '.join(PRESETS)}) nor a file written by "
            f"`hubbub data fit`: {error}"
        ) from error
