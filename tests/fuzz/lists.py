"""Changes one thing in a list of a corpus (a value, a key, the file's bytes) and reads it as the index does.

    python -m tests.fuzz.lists --cases 2000 --seed 0

clear: the file as a whole is refused by an InputError; quarantined: the row is named with a reason, and the others are
used; same: all rows are used, and what was read makes sense; ended: one row ended the run; silent: a row is missing
without a word, or what was read makes no sense; crashed, hung: as they say.
"""

import gzip
import json
import os
import random
import re
import tarfile
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import soundfile

from operators.corpus.index import index_utterances
from operators.corpus.manifest import Manifest, corpus_roots
from operators.corpus.recorded import index_recorded
from operators.errors import InputError
from tests.fuzz import arguments, outcome_of, tell

NUMBER = 6
LENGTH = 64_000
"""Samples of every sound, at 16 kHz."""
CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f]")
FORMS = ("plain", "plain.gz", "array", "nemo", "lhotse", "lhotse.gz", "cuts", "shar", "recorded", "rttm", "stm", "csv")
VALUES: tuple[Any, ...] = (
    *(None, "", " ", "x", "../x", "a\0b", "nan", "x" * 5000, [], ["x"], [[]], {}, {"x": 1}, 0, -1, 0.5, 1e308, True),
    *(2**70, float("nan"), float("inf"), -float("inf"), "\u202e", "a\nb", "1,5", "http://127.0.0.1/x.wav"),
)


def build(folder: Path) -> None:
    """Write the sounds that all forms name."""
    names = [f"u{i}.wav" for i in range(NUMBER)]
    for name in ("a.wav", *names):
        soundfile.write(folder / name, [0.1, -0.1] * (LENGTH // 2), 16_000)
    with tarfile.open(folder / "recording.000000.tar", "w") as tar:  # Shar's
        for name in names:
            tar.add(folder / name, name)


def link(sounds: Path, form: str, folder: Path) -> None:
    """Put the sounds that a form names into a folder."""
    for sound in sounds.iterdir():
        if sound.suffix != ".tar" or form == "shar":
            os.link(sound, folder / sound.name)


def files_of(form: str) -> dict[str, list[Any]]:
    """Return the valid list of a form: rows by file name."""
    ids = [f"u{i}" for i in range(NUMBER)]
    rows = [{"duration": 0.5, "text": "hello there", "speaker": f"s{i % 2}"} for i in range(NUMBER)]
    said = [
        {
            "id": name,
            "recording_id": "a",
            "start": i / 2,
            "channel": 0,
            "language": "en",
            "custom": {"position": i},
            "alignment": {"word": [["hello", i / 2, 0.2, None], ["there", i / 2 + 0.2, 0.2, None]]},
            **rows[i],
        }
        for i, name in enumerate(ids)
    ]
    recording = {
        "id": "a",
        "sampling_rate": 16_000,
        "num_samples": LENGTH,
        "duration": LENGTH / 16_000,
        "sources": [{"type": "file", "channels": [0], "source": "a.wav"}],
    }
    cuts = [
        {
            "id": one["id"],
            "type": "MonoCut",
            "start": one["start"],
            "duration": 0.5,
            "channel": 0,
            "recording": recording,
            "supervisions": [{**one, "start": 0.0}],
        }
        for one in said
    ]
    plain = [{"id": i, "audio": f"{i}.wav", "lang": "en", **row} for i, row in zip(ids, rows, strict=True)]
    both = {"recordings.jsonl": [recording], "supervisions.jsonl": said}
    return {
        "plain": {"manifest.jsonl": plain},
        "array": {"manifest.json": plain},
        "csv": {"metadata.csv": [["file_name", "speaker_id", "text"], *([f"{i}.wav", "s0", "hello"] for i in ids)]},
        "nemo": {
            "manifest.jsonl": [
                {"audio_filepath": f"{i}.wav", "offset": 0.5, **row} for i, row in zip(ids, rows, strict=True)
            ]
        },
        "lhotse": both,
        "recorded": both,
        "cuts": {"cuts.jsonl": cuts},
        "shar": {"cuts.000000.jsonl": cuts},
        "rttm": {"a.rttm": [f"SPEAKER a 1 {i / 2} 0.5 <NA> <NA> s{i % 2} <NA> <NA>".split() for i in range(NUMBER)]},
        "stm": {"a.stm": [f"a 1 s{i % 2} {i / 2} {i / 2 + 0.5} hello there".split() for i in range(NUMBER)]},
    }[form.removesuffix(".gz")]


def changed(row: Any, draw: random.Random) -> Any:
    """Return a copy of a row in which one thing, at any depth, is gone or another."""
    node = made = json.loads(json.dumps(row))
    key = draw.choice([*(node if isinstance(node, dict) else range(len(node)))])
    while isinstance(node[key], dict | list) and node[key] and draw.random() < 0.7:
        node = node[key]
        key = draw.choice([*(node if isinstance(node, dict) else range(len(node)))])
    if draw.random() < 0.2:
        del node[key]
    else:
        node[key] = draw.choice(VALUES)
    return made


def text_of(form: str, rows: list[Any]) -> bytes:
    """Return the file of some rows."""
    if form == "array":
        return json.dumps(rows).encode()
    if form in ("rttm", "stm", "csv"):
        return "".join(("," if form == "csv" else " ").join(map(str, row)) + "\n" for row in rows).encode()
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def write(form: str, draw: random.Random, folder: Path) -> bool:
    """Write a list in which one thing is another; return whether it is a row's, and not the file's."""
    files = files_of(form)
    chosen = draw.choice(list(files))
    of_row = draw.random() < 0.8
    if of_row:
        place = draw.randrange(len(files[chosen]))
        files[chosen][place] = changed(files[chosen][place], draw)
    for name, rows in files.items():
        data = text_of(form.removesuffix(".gz"), rows)
        data = gzip.compress(data, mtime=0) if form.endswith(".gz") else data
        if name == chosen and not of_row:
            at, kind = draw.randrange(len(data)), draw.randrange(4)
            line = draw.choice([b"{\n", b"[1]\n", b"null\n", b"\xff\xfe\n", b'{"a": 1} {"b": 2}\n'])
            bit = data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :]
            data = (data[:at], bit, data + line, b"")[kind]
        (folder / (f"{name}.gz" if form.endswith(".gz") else name)).write_bytes(data)
    return of_row


def makes_sense(rows: list[dict[str, Any]]) -> bool:
    """Tell whether rows of UTTERANCES, or turns of CONVERSATIONS, are such as can be simulated and written."""
    for row in rows:
        start, number = row["source_start_sample"], row["source_num_samples"]
        if not (start >= 0 and number > 0 and start + number <= LENGTH + 1600):
            return False
        speaker, text = row["speaker"], row["text"] or ""
        if not speaker or not speaker.strip() or speaker.lower() in ("nan", "none", "null"):
            return False
        if CONTROL.search(speaker + text):
            return False
    return True


def read(form: str, folder: Path, *, of_row: bool) -> str:
    """Read a list as the index does; return the outcome."""
    manifest = Manifest(path=folder, is_recorded=form in ("recorded", "rttm", "stm"))
    try:
        if manifest.is_recorded:
            roots = {path: name for name, path in corpus_roots([manifest]).items()}
            table, bad = index_recorded([manifest], roots, 16_000, seed=0, test_share=0.2)
            rows = [turn for turns in table["turns"].to_pylist() for turn in turns]
            missing = 0 if bad else NUMBER - len(rows)
        else:
            table, bad = index_utterances([manifest], num_threads=1)
            rows = table.to_pylist()
            missing = NUMBER - len(rows) - len(bad)
    except InputError as error:
        if not str(error) or "\n" in str(error):
            return "silent"
        return "ended" if of_row and form not in ("rttm", "stm", "csv") else "clear"
    if any(not one.reason for one in bad):
        return "silent"
    # A value may part its line otherwise; of two files that are joined, the other one may name what is missing.
    lost = missing > 0 and of_row and form not in ("rttm", "stm", "csv", "lhotse", "lhotse.gz", "recorded")
    if lost or not makes_sense(rows):
        return "silent"
    return "quarantined" if bad else "same"


def fuzz(cases: int, seed: int, folder: Path) -> Counter[str]:
    """Change one list in each case, read it, and count the outcomes."""
    sounds = folder / "sounds"
    sounds.mkdir()
    build(sounds)
    for form in FORMS:  # also imports, once, what each child would import for itself
        with tempfile.TemporaryDirectory(dir=folder) as name:
            link(sounds, form, Path(name))
            for file, rows in files_of(form).items():
                data = text_of(form.removesuffix(".gz"), rows)
                packed = form.endswith(".gz")
                path = Path(name) / (f"{file}.gz" if packed else file)
                path.write_bytes(gzip.compress(data, mtime=0) if packed else data)
            assert read(form, Path(name), of_row=False) == "same", form
    counts: Counter[str] = Counter()
    for number in range(cases):
        form = FORMS[number % len(FORMS)]
        draw = random.Random(f"{seed}/{number}")
        with tempfile.TemporaryDirectory(dir=folder) as name:
            link(sounds, form, Path(name))
            of_row = write(form, draw, Path(name))
            outcome = outcome_of(lambda form=form, name=name, of_row=of_row: read(form, Path(name), of_row=of_row))
            if outcome not in ("clear", "quarantined", "same"):
                print(f"{outcome}: case {number}, {form}", flush=True)
            counts[outcome] += 1
    return counts


if __name__ == "__main__":
    parsed = arguments(__doc__)
    with tempfile.TemporaryDirectory() as temporary:
        tell(fuzz(parsed.cases, parsed.seed, Path(temporary)))
