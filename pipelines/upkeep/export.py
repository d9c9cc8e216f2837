"""data export: conversations with their sound and truth, as lhotse (and what reads lhotse) has them."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import soundfile

from operators.corpus.sources import roots_of, with_roots
from operators.errors import InputError
from operators.store.names import file_name
from pipelines.plan.output import Output
from pipelines.plan.sources import audio_roots
from pipelines.recipes.files import recipe_of
from pipelines.recipes.recipe import Recipe
from pipelines.reporting import console


def export(output_folder: Path, folder: Path, form: str, split: str | None) -> None:
    """Write recordings, supervisions and cuts (lhotse), or tar shards (Shar).

    The sound is rendered from the conversations, as it was for the codes; the audio data set is not needed.

    Raises:
        InputError: there are no conversations, or none of this split.
    """
    output = Output(output_folder)
    recipe = recipe_of(output_folder)
    dataset = output.dataset("conversations")
    snapshot = dataset.latest()
    if snapshot is None:
        raise InputError(f"there are no conversations in {output_folder}; make them with hubbub simulate")
    roots = audio_roots(recipe, output)
    folder.mkdir(parents=True, exist_ok=True)

    def rows() -> Iterator[pa.Table]:
        for receipt in snapshot.receipts:
            if split is None or receipt.partition_id.startswith(f"{split}-"):
                for batch in dataset.batches(receipt):
                    for number in range(batch.num_rows):
                        yield with_roots(batch.slice(number, 1), roots)

    number, seconds = _write(rows(), recipe, folder, form)
    if not number:
        raise InputError(f"there is no conversation of the {split} split in {output_folder}")
    console.line("exported", f"{number:,} conversations, {console.hours(seconds)}, to {folder} ({form})")


def _write(conversations: Iterator[pa.Table], recipe: Recipe, folder: Path, form: str) -> tuple[int, float]:
    """Write cuts one by one; return how many, and their length in seconds."""
    from lhotse import CutSet, RecordingSet, SupervisionSet
    from lhotse.shar import SharWriter

    number, seconds = 0, 0.0
    if form == "shar":
        with SharWriter(str(folder), fields={"recording": "flac"}, shard_size=1000) as writer:
            for one in conversations:
                cut = _cut(one, recipe, None)
                writer.write(cut)
                number, seconds = number + 1, seconds + cut.duration
        return number, seconds
    (folder / "audio").mkdir(exist_ok=True)
    cuts = [_cut(one, recipe, folder / "audio") for one in conversations]
    RecordingSet.from_recordings(cut.recording for cut in cuts).to_file(folder / "recordings.jsonl.gz")
    SupervisionSet.from_segments(s for cut in cuts for s in cut.supervisions).to_file(folder / "supervisions.jsonl.gz")
    CutSet.from_cuts(cuts).to_file(folder / "cuts.jsonl.gz")
    return len(cuts), sum(cut.duration for cut in cuts)


def _cut(conversation: pa.Table, recipe: Recipe, folder: Path | None) -> Any:
    """Return one conversation as a lhotse cut, its sound as a FLAC file in a folder, or in memory."""
    from lhotse import MonoCut, Recording, SupervisionSegment
    from lhotse.supervision import AlignmentItem

    row = conversation.to_pylist()[0]
    name, hz = row["conversation_id"], row["sample_rate_hz"]
    heard = recipe.render.render_conversation(row, roots_of(conversation))
    buffer = io.BytesIO()
    soundfile.write(buffer, heard.channels.T, hz, format="FLAC", subtype="PCM_16")
    if folder is None:
        recording = Recording.from_bytes(buffer.getvalue(), recording_id=name)
    else:
        path = folder / f"{file_name(name)}.flac"
        path.write_bytes(buffer.getvalue())
        recording = Recording.from_file(path, recording_id=name)
    supervisions = [
        SupervisionSegment(
            id=f"{name}-{number:05d}",
            recording_id=name,
            start=turn["start_sample"] / hz,
            duration=turn["num_samples"] / hz,
            channel=0,
            text=turn["text"],
            language=turn["language"],
            speaker=turn["speaker"],
            custom={"utterance_id": turn["utterance_id"], "transition": turn["transition"], "licence": turn["licence"]},
            alignment={
                "word": [AlignmentItem(w["word"], w["start_sample"] / hz, w["num_samples"] / hz) for w in turn["words"]]
            }
            if turn["words"]
            else None,
        )
        for number, turn in enumerate(row["turns"])
    ]
    room = {key: value for key, value in (row["room"] or {}).items() if key != "seats"}
    custom = {"origin": row["origin"], "split": row["split"], "snr_db": row["snr_db"], "room": room or None}
    return MonoCut(
        id=name,
        start=0,
        duration=recording.duration,
        channel=0,
        recording=recording,
        supervisions=supervisions,
        custom={key: value for key, value in custom.items() if value is not None},
    )
