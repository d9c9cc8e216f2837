"""Both fuzzers, as `make fuzz` runs them: lists of corpora, and what a run keeps.

    python -m tests.fuzz --cases 20000 --seed 0

Prints the counts of both as one JSON object.
"""

import tempfile
from collections import Counter
from pathlib import Path

from tests.fuzz import arguments, lists, stored, tell

SHARE_STORED = 0.1

if __name__ == "__main__":
    parsed = arguments(__doc__)
    counts: Counter[str] = Counter()
    of_stored = round(parsed.cases * SHARE_STORED)
    for fuzz, cases in ((lists.fuzz, parsed.cases - of_stored), (stored.fuzz, of_stored)):
        with tempfile.TemporaryDirectory() as folder:
            counts += fuzz(cases, parsed.seed, Path(folder))
    tell(counts)
