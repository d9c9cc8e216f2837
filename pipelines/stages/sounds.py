"""Sound of the conversations that a page of scores shows, rendered again as they were heard."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import soundfile

from operators.corpus.sources import with_roots
from operators.digest import digest
from operators.errors import InputError, UnusableRowError
from pipelines.plan.sources import audio_roots
from pipelines.plan.stage import Plan

LONGEST_S = 600.0
"""Longer conversations are not written again: `hubbub data listen` plays them."""


@dataclass
class Sounds:
    """FLAC files of conversations of the test split, in a folder beside the pages; each is written once."""

    plan: Plan
    folder: Path
    written: dict[str, str] = field(default_factory=dict)
    """File, or in brackets why there is none, by conversation."""

    def of(self, conversation_ids: Iterable[str]) -> dict[str, str]:
        """Return the path of each conversation's sound from the folder, or in brackets why there is none."""
        wanted = list(dict.fromkeys(conversation_ids))
        missing = [name for name in wanted if name not in self.written]
        for row in self._rows(missing):
            self.written[row["conversation_id"][0].as_py()] = self._write(row)
        return {name: self.written.get(name, "(no such conversation)") for name in wanted}

    def _rows(self, conversation_ids: list[str]) -> list[pa.Table]:
        """Return the rows of CONVERSATIONS, a table of one row each."""
        dataset, found = self.plan.output.dataset("conversations"), []
        for partition in self.plan.stage("conversations").partitions:
            receipt = dataset.committed_by_key(partition.partition_id, partition.key)
            if conversation_ids and receipt is not None and partition.partition_id.startswith("test-"):
                table = dataset.open(receipt).read_all()
                chosen = table.filter(pc.is_in(table["conversation_id"], value_set=pa.array(conversation_ids)))
                found += [chosen.slice(i, 1) for i in range(chosen.num_rows)]
        return found

    def _write(self, row: pa.Table) -> str:
        name, rate_hz = row["conversation_id"][0].as_py(), row["sample_rate_hz"][0].as_py()
        if row["num_samples"][0].as_py() > LONGEST_S * rate_hz:
            return f"(longer than {LONGEST_S / 60:g} minutes: hubbub data listen plays it)"
        try:
            audio = self.plan.recipe.render(with_roots(row, audio_roots(self.plan.recipe, self.plan.output)))
        except (InputError, UnusableRowError, OSError) as error:
            return f"(it cannot be rendered again: {error})"
        safe = re.sub(r"[^A-Za-z0-9_-]+", "_", name)
        path = self.folder / "sounds" / f"{safe if safe == name else f'{safe}-{digest(name)[:8]}'}.flac"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(str(path), audio["samples"][0].values.to_numpy(), rate_hz, format="FLAC")
        return f"sounds/{path.name}"
