"""data align: a corpus of single speakers -> the same as a lhotse manifest with word times."""

import json
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

from operators.corpus.align import AlignedWord, Aligner, aligner_of
from operators.corpus.index import index_utterances
from operators.corpus.manifest import Manifest, corpus_roots
from operators.corpus.sources import read_source
from operators.errors import InputError, UnusableRowError
from pipelines.reporting import console


@cache
def _aligner(language: str) -> Aligner:
    return aligner_of(language)


def _align_one(row: dict[str, Any], roots: dict[str, Path], language: str) -> tuple[list[AlignedWord], str]:
    try:
        samples = read_source(row, roots)
        return _aligner(language).align(samples, row["source_rate_hz"], row["text_normalized"].split()), ""
    except UnusableRowError as error:
        return [], str(error)


def align_corpus(listed: Sequence[str], folder: Path, language: str, workers: int) -> None:
    """Align every utterance and write recordings.jsonl.gz and supervisions.jsonl.gz.

    Utterances that cannot be aligned are kept without word times, counted, and listed with the reason in
    unaligned.jsonl.

    Raises:
        InputError: a manifest cannot be used, there is no aligner, or the corpus is in tar shards.
    """
    aligner_of(language)
    manifests = [Manifest.parse(text) for text in listed]
    utterances, bad = index_utterances(manifests, language=language)
    if bad:
        console.notice(f"{len(bad)} utterance(s) are left out, the first being {bad[0].row_id}: {bad[0].reason}")
    rows = utterances.to_pylist()
    if any(row["byte_length"] for row in rows):
        raise InputError(
            "aligning writes a manifest of sound files; unpack the tar shards first (lhotse's own tool does)"
        )
    roots = corpus_roots(manifests)
    seconds = sum(row["source_num_samples"] / row["source_rate_hz"] for row in rows)
    found: list[tuple[list[AlignedWord], str]] = []
    with ProcessPoolExecutor(workers) as pool, console.bar("align", len(rows)) as bar:
        made = pool.map(_align_one, rows, [roots] * len(rows), [language] * len(rows), chunksize=8)
        for number, one in enumerate(made, 1):
            found.append(one)
            bar.to(number)
    _write(rows, found, roots, folder)
    failed = [(row["utterance_id"], reason) for row, (_, reason) in zip(rows, found, strict=True) if reason]
    text = "".join(json.dumps({"row_id": i, "reason": reason}, ensure_ascii=False) + "\n" for i, reason in failed)
    (folder / "unaligned.jsonl").write_text(text, encoding="utf-8")
    console.line("aligned", f"{len(rows) - len(failed):,} of {len(rows):,} utterances, {console.hours(seconds)}")
    for reason, number in Counter(reason.split(":")[0] for _, reason in failed).most_common(3):
        console.line("not", f"{number:,}: {reason} ({folder / 'unaligned.jsonl'})")
    console.line("written", f"{folder}; use it with --corpus.manifests {folder}")


def _write(
    rows: Sequence[dict[str, Any]], found: Sequence[tuple[list[AlignedWord], str]], roots: dict[str, Path], folder: Path
) -> None:
    import soundfile
    from lhotse import AudioSource, Recording, RecordingSet, SupervisionSegment, SupervisionSet
    from lhotse.supervision import AlignmentItem

    recordings: dict[str, Recording] = {}
    supervisions = []
    for row, (words, _) in zip(rows, found, strict=True):
        path = Path(row["audio"]) if Path(row["audio"]).is_absolute() else roots[row["corpus"]] / row["audio"]
        hz = row["source_rate_hz"]
        if str(path) not in recordings:
            with soundfile.SoundFile(path) as sound:
                channels, frames = list(range(sound.channels)), sound.frames
            recordings[str(path)] = Recording(
                id=f"recording-{row['utterance_id']}",
                sources=[AudioSource("file", channels, str(path))],
                sampling_rate=hz,
                num_samples=frames,
                duration=frames / hz,
                channel_ids=channels,
            )
        start_s = row["source_start_sample"] / hz
        names = ("split", "licence", "consent", "book", "chapter", "position")
        custom = {**json.loads(row["user_columns"]), **{n: row[n] for n in names if row[n] is not None}}
        gender = custom.pop("gender", None)
        items = [AlignmentItem(word.word, start_s + word.start_s, word.duration_s) for word in words]
        supervisions.append(
            SupervisionSegment(
                id=row["utterance_id"],
                recording_id=recordings[str(path)].id,
                start=start_s,
                duration=row["source_num_samples"] / hz,
                channel=row["channel"],
                text=row["text"],
                language=row["language"],
                speaker=row["speaker"],
                gender=gender,
                custom=custom or None,
                alignment={"word": items} if items else None,
            )
        )
    folder.mkdir(parents=True, exist_ok=True)
    RecordingSet.from_recordings(recordings.values()).to_file(folder / "recordings.jsonl.gz")
    SupervisionSet.from_segments(supervisions).to_file(folder / "supervisions.jsonl.gz")
