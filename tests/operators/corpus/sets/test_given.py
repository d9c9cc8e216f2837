"""Given conversations: mixtures that a list defines are made exactly as it says."""

import gzip
import io
import json

import numpy as np
import pytest
import soundfile

from operators.corpus.manifest import Manifest, corpus_roots
from operators.corpus.recorded import index_recorded
from operators.corpus.sets.given import read_given
from operators.corpus.sets.layouts import LAYOUTS
from operators.corpus.sources import with_roots
from operators.errors import InputError
from operators.schema import CONVERSATIONS
from operators.simulate.label_check import check_labels
from operators.simulate.render import Render
from operators.simulate.rooms import Place
from operators.simulate.signals.levels import as_written
from operators.simulate.signals.noise import extend

HZ = 16_000


def write_sounds(folder, amplitude=0.3, lengths=(8000, 12_000, 6000), suffix="wav"):
    """Write noisy tones of speakers a, b, c; return their samples as soundfile reads them."""
    folder.mkdir(parents=True, exist_ok=True)
    read = []
    for number, length in enumerate(lengths):
        draw = np.random.default_rng(number)
        wav = amplitude * np.sin(2 * np.pi * (150 + 60 * number) * np.arange(length) / HZ)
        path = folder / f"{'abc'[number]}.{suffix}"
        soundfile.write(path, wav + 0.02 * draw.standard_normal(length), HZ, subtype="PCM_16")
        read.append(soundfile.read(path)[0])
    return read


def conversation(**fields):
    turns = [
        {"utterance_id": "u-a", "audio": "a.wav", "speaker": "a", "text": "One.", "start_sample": 0, "gain": 0.7},
        {"utterance_id": "u-b", "audio": "b.wav", "speaker": "b", "text": "Two.", "start_sample": 5000, "gain": 1.1},
    ]
    return {"conversation_id": "mix-1", "split": "test", "turns": turns, "columns": {"overlap": 20}, **fields}


def write_list(folder, *rows, name="list.jsonl"):
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path = folder / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith("gz") else text.encode())
    return path


def indexed(path, *others, layout="given", rate_hz=HZ, **options):
    manifests = [Manifest.parse(str(path)), *(Manifest(path=other) for other in others)]
    roots = corpus_roots(manifests)
    names = {folder: name for name, folder in roots.items()}
    read = LAYOUTS[layout].read
    options = {"seed": 0, "test_share": 0.2, "read": lambda manifest: read(manifest, others), **options}
    table, bad = index_recorded(manifests[:1], names, rate_hz, **options)
    return with_roots(table, roots), bad


def rendered(table, **options):
    audio = Render(**options)(table)
    return audio["samples"][0].values.to_numpy(), audio


def written(samples):
    """What soundfile makes of samples when it writes 16-bit WAV."""
    file = io.BytesIO()
    soundfile.write(file, samples, HZ, format="WAV", subtype="PCM_16")
    file.seek(0)
    return soundfile.read(file, dtype="int16")[0]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_integers_are_those_that_soundfile_writes(dtype):
    draw = np.random.default_rng(0)
    exact = np.arange(-32768, 32768) / 32768
    for samples in (exact, draw.uniform(-1.3, 1.3, 100_000), exact + draw.uniform(-1e-6, 1e-6, len(exact))):
        assert np.array_equal(as_written(samples.astype(dtype)), written(samples.astype(dtype)))


@pytest.mark.parametrize("mixing", ["float32", "float64"])
def test_a_mixture_is_the_plain_sum_of_its_sources(tmp_path, mixing):
    a, b, _ = (wav.astype(mixing) for wav in write_sounds(tmp_path))
    table, bad = indexed(write_list(tmp_path, conversation(mixing=mixing)))
    assert not bad
    assert table.schema.equals(CONVERSATIONS, check_metadata=False)
    total = np.zeros(17_000, mixing)
    total[:8000] += a * total.dtype.type(0.7)
    total[5000:] += b * total.dtype.type(1.1)
    samples, audio = rendered(table, stems="anechoic")
    assert np.array_equal(samples, written(total))
    assert audio["scale"][0].as_py() == 1.0
    stem = audio["stems"][0].as_py()[1]
    assert stem["speaker"] == "b"
    assert np.array_equal(stem["samples"][5000:], written(b * total.dtype.type(1.1)))


def test_the_level_of_the_recipe_changes_nothing(tmp_path):
    write_sounds(tmp_path)
    table, _ = indexed(write_list(tmp_path, conversation()))
    loud, _ = rendered(table, level_dbfs=-20.0)
    assert np.array_equal(loud, rendered(table)[0])


def test_a_mixture_beyond_full_scale_is_clipped_as_its_script_does(tmp_path):
    a, b, _ = write_sounds(tmp_path, amplitude=0.8)
    total = np.zeros(17_000)
    total[:8000] += a * 0.7
    total[5000:] += b * 1.1
    assert np.abs(total).max() > 1
    assert np.array_equal(rendered(indexed(write_list(tmp_path, conversation()))[0])[0], written(total))


def test_turns_with_levels_are_scaled_like_simulated_ones(tmp_path):
    write_sounds(tmp_path)
    row = conversation()
    for turn in row["turns"]:
        del turn["gain"]
        turn["gain_db"] = 0.0
    table, _ = indexed(write_list(tmp_path, row))
    assert table["mixing"][0].as_py() is None
    samples, _ = rendered(table, level_dbfs=-20.0)
    assert 20 * np.log10(np.sqrt(np.mean((samples[:5000] / 32768.0) ** 2))) == pytest.approx(-20, abs=0.5)


def test_labels_columns_and_transitions(tmp_path):
    write_sounds(tmp_path)
    table, _ = indexed(write_list(tmp_path, conversation(), name="list.jsonl.gz"), language="en", licence="CC0")
    (row,) = table.to_pylist()
    assert (row["origin"], row["split"], row["speakers"]) == ("simulated", "test", ["a", "b"])
    assert json.loads(row["user_columns"]) == {"overlap": 20}
    assert [(t["transition"], t["offset_samples"]) for t in row["turns"]] == [("start", 0), ("switch_overlap", -3000)]
    assert [(t["text_normalized"], t["language"], t["licence"]) for t in row["turns"]] == [
        ("one", "en", "CC0"),
        ("two", "en", "CC0"),
    ]
    assert row["num_samples"] == 17_000
    check_labels(table, Render())


def test_a_slice_of_a_file_and_its_other_form(tmp_path):
    """Lists name WAV files that are kept as FLAC; the samples are the same."""
    a, _, _ = write_sounds(tmp_path / "audio", suffix="flac")
    turn = {"utterance_id": "u", "audio": "a.wav", "speaker": "a", "text": "One", "start_s": 0.5}
    turn |= {"source_start_sample": 100, "source_num_samples": 4000}
    path = write_list(tmp_path, conversation(turns=[turn], num_samples=16_000))
    table, bad = indexed(path, tmp_path / "audio")
    assert not bad
    samples, _ = rendered(table)
    assert np.array_equal(samples[8000:12_000], written(a[100:4100]))
    assert not samples[:8000].any()
    assert not samples[12_000:].any()
    assert len(samples) == 16_000


def test_at_another_rate_times_are_the_same(tmp_path):
    write_sounds(tmp_path)
    table, _ = indexed(write_list(tmp_path, conversation()), rate_hz=24_000)
    assert [t["start_sample"] for t in table["turns"][0].as_py()] == [0, 7500]
    assert len(rendered(table)[0]) == 25_500


def test_a_background_is_added_as_it_is(tmp_path):
    a, b, _ = write_sounds(tmp_path)
    noise = np.random.default_rng(9).uniform(-0.1, 0.1, (20_000, 2))
    soundfile.write(tmp_path / "noise.wav", noise, HZ, subtype="PCM_16")
    row = conversation(mixing="float32", background={"audio": "noise.wav", "gain": 0.5})
    total = np.zeros(17_000, np.float32)
    total[:8000] += a.astype(np.float32) * np.float32(0.7)
    total[5000:] += b.astype(np.float32) * np.float32(1.1)
    total += soundfile.read(tmp_path / "noise.wav", dtype="float32")[0][:17_000, 0] * np.float32(0.5)
    table, _ = indexed(write_list(tmp_path, row))
    assert np.array_equal(rendered(table)[0], written(total))
    check_labels(table, Render())


def test_noise_is_lengthened_by_hann_seams():
    noise = np.random.default_rng(0).standard_normal(20_000).astype(np.float32)
    longer = extend(noise, 50_000, HZ)
    assert len(longer) == 50_000
    assert np.array_equal(longer[:11_999], noise[:11_999])
    middle = 11_999 + 4000  # both halves count the same in the middle of a seam
    assert longer[middle] == pytest.approx((noise[middle] + noise[4000]) / 2)
    assert np.array_equal(longer[20_000:23_998], noise[8001:11_999])
    with pytest.raises(ValueError, match="too short"):
        extend(noise[:8000], 50_000, HZ)


def test_a_room_of_the_list_is_used(tmp_path):
    write_sounds(tmp_path)
    room = Place(room="simulated").room_of(0, "mix-1", ["a", "b"], HZ)
    table, _ = indexed(write_list(tmp_path, conversation(room=room, num_samples=20_000)))
    wet, _ = rendered(table)
    dry, _ = rendered(indexed(write_list(tmp_path, conversation(num_samples=20_000)))[0])
    assert dry[17_000:].any() < wet[17_000:].any()
    assert {t["rir_id"] for t in table["turns"][0].as_py()} == {seat["rir_id"] for seat in room["seats"]}
    # Its ids are what its responses are drawn by, whatever today's version would call them.
    for seat in room["seats"]:
        seat["rir_id"] = f"other-{seat['speaker']}"
    other, _ = indexed(write_list(tmp_path, conversation(room=room, num_samples=20_000)))
    assert not np.array_equal(rendered(other)[0], wet)


def no(*names):
    row = conversation()
    for name in names:
        del row[name]
    return row


def with_turn(**fields):
    row = conversation()
    row["turns"][1] |= fields
    return row


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (no("turns"), "lacks 'turns'"),
        (conversation(turns=[]), "no turns"),
        (conversation(mixing="int16"), "mixing 'int16'"),
        (with_turn(gain_db=2.0), "gain_db"),
        (with_turn(loudness=2.0), "loudness"),
        (with_turn(start_sample=-1), "before the conversation"),
    ],
)
def test_a_bad_line_is_named(tmp_path, row, reason):
    path = write_list(tmp_path, conversation(), row)
    with pytest.raises(InputError, match=f"line 2.*{reason}"):
        read_given(Manifest(path=path))


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (with_turn(audio="nowhere.wav"), "missing file nowhere.wav.*audio-roots"),
        (with_turn(source_start_sample=5000, source_num_samples=8000), "wants 8000 samples"),
        (with_turn(channel=1), "no channel 1"),
        (conversation(num_samples=100), "ends before the last turn"),
        (conversation(room={"seats": [{"speaker": "a", "rir_id": "x"}]}), "no seat for speaker b"),
    ],
)
def test_what_cannot_be_mixed_is_quarantined(tmp_path, row, reason):
    write_sounds(tmp_path)
    table, bad = indexed(write_list(tmp_path, row))
    assert table.num_rows == 0
    (one,) = bad
    import re

    assert re.search(reason, one.reason), one.reason
