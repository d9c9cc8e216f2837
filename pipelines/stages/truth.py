"""Truth files of all conversations, in the output folder."""

import json

import pyarrow.compute as pc

from operators.corpus.annotations import TRUTH_FORMATS, names_in_fields, write_truth
from operators.store.dataset import Snapshot
from pipelines.plan.output import Output


def write_truth_files(output: Output, snapshot: Snapshot, kinds: tuple[str, ...], hop_samples: int) -> list[str]:
    """Write truth files of all conversations, one for each format and split; return their paths."""
    conversations = output.dataset("conversations").read(snapshot)
    folder = output.folder / "truth"
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for split in sorted(set(conversations["split"].to_pylist())):
        chosen = conversations.filter(pc.equal(conversations["split"], split))
        changed = {
            kind: {name: field for name, field in names.items() if name != field}
            for kind, names in zip(("conversations", "speakers"), names_in_fields(chosen), strict=True)
        }
        if any(changed.values()):
            path = folder / f"{split}.names.json"
            path.write_text(json.dumps(changed, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
            written.append(f"{path} (names that hold white space, as RTTM, STM and CTM have them)")
        for kind in kinds:
            path = folder / f"{split}.{TRUTH_FORMATS[kind].suffix}"
            path.write_text(write_truth(chosen, kind, hop_samples), encoding="utf-8")
            written.append(str(path))
    return written
