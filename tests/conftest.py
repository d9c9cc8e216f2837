"""What tests share: a corpus made on the spot, and the folder of real data where there is one."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest
import soundfile

os.environ["HUBBUB_TRACKING"] = "output"  # what a test records is its own
os.environ["HUBBUB_ALLOW_URLS"] = "memory://"  # object storage of tests, which is refused otherwise
SHARED = Path(os.environ.get("HUBBUB_SHARED", Path(__file__).parents[1] / "../shared")).resolve()


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real recordings, or a skip with the reason."""
    if not (SHARED / "data").is_dir():
        pytest.skip(f"no real data at {SHARED} (set HUBBUB_SHARED)")
    return SHARED


def write_corpus(folder: Path, num_speakers: int = 6, per_speaker: int = 5, rate_hz: int = 16_000) -> Path:
    """Write a corpus of hummed words: a pitch a speaker, a vowel a word; return its manifest."""
    (folder / "wav").mkdir(parents=True)
    rows = []
    words = ["one", "two", "three", "four", "five"]
    for s in range(num_speakers):
        for u in range(per_speaker):
            rng = np.random.default_rng(1000 * s + u)
            length = int(rate_hz * (0.4 + 0.1 * u))
            t = np.arange(length) / rate_hz
            pitch, vowel = 100 + 25 * s, 400 + 300 * (u % len(words))
            wav = 0.2 * np.sin(2 * np.pi * pitch * t) + 0.1 * np.sin(2 * np.pi * vowel * t)
            wav += 0.001 * rng.standard_normal(length)
            soundfile.write(folder / f"wav/s{s}-{u}.wav", wav, rate_hz, subtype="PCM_16")
            text = f"{words[u % 5]} {words[(u + s) % 5]}"
            row = {"id": f"s{s}-{u}", "speaker": f"s{s}", "text": text, "audio": f"wav/s{s}-{u}.wav", "position": u}
            rows.append({**row, "story": "a", "duration": length / rate_hz, "gender": "fm"[s % 2]})
    manifest = folder / "manifest.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return manifest


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A manifest of 30 utterances by 6 speakers."""
    return write_corpus(tmp_path / "corpus")


@pytest.fixture
def postgres() -> Iterator[str]:
    """URI of an empty database of a PostgreSQL server for this test alone, or a skip with the reason."""
    if "HUBBUB_TEST_POSTGRES" not in os.environ:
        pytest.skip("no PostgreSQL (make test-slow starts one)")
    psycopg2 = pytest.importorskip("psycopg2", reason="psycopg2 is not installed")
    server, _ = os.environ["HUBBUB_TEST_POSTGRES"].rsplit("/", 1)
    name = f"test_{uuid4().hex}"
    with closing(psycopg2.connect(server.replace("+psycopg2", "") + "/postgres")) as connection:
        connection.autocommit = True
        connection.cursor().execute(f"CREATE DATABASE {name}")
        yield f"{server}/{name}"
        connection.cursor().execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def more_choices(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let fields have further names, as if they stood in the type of names of their family."""
    from models.config import values

    def add(*names: str) -> None:
        real = values.options_of
        monkeypatch.setattr(values, "options_of", lambda hint: (*real(hint), *names))

    return add
