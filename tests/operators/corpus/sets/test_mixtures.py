"""LibriSpeechMix and LibriMix: from the published lists, the samples that the published scripts write."""

import json

import numpy as np
import pytest
import soundfile

from operators.corpus.manifest import Manifest
from operators.corpus.sets.mixtures import librimix_files, librispeechmix_files, read_librimix, read_librispeechmix
from operators.errors import InputError
from tests.operators.corpus.sets.test_given import HZ, indexed, rendered, written

UTTERANCES = {
    "1089-134686-0000": ("HE HOPED THERE WOULD BE STEW", 30_001),
    "61-70968-0043": ("FRIENDS SAID MONTFICHET", 24_000),
    "1089-134686-0001": ("STUFF IT INTO YOU", 18_500),
}


def path_of(name, suffix):
    speaker, chapter, _ = name.split("-")
    return f"test-clean/{speaker}/{chapter}/{name}.{suffix}"


def write_librispeech(folder):
    """Write a few utterances as LibriSpeech has them; return their samples (double precision)."""
    wavs = {}
    for number, (name, (text, length)) in enumerate(UTTERANCES.items()):
        path = folder / path_of(name, "flac")
        path.parent.mkdir(parents=True, exist_ok=True)
        draw = np.random.default_rng(number)
        soundfile.write(path, np.clip(0.25 * draw.standard_normal(length), -0.9, 0.9), HZ, subtype="PCM_16")
        with open(path.with_name(f"{name.rsplit('-', 1)[0]}.trans.txt"), "a") as file:
            file.write(f"{name} {text}\n")
        wavs[name] = soundfile.read(path)[0]
    return wavs


MIX = {
    "id": "test-clean-2mix/test-clean-2mix-0000",
    "mixed_wav": "test-clean-2mix/test-clean-2mix-0000.wav",
    "texts": [UTTERANCES["1089-134686-0000"][0], UTTERANCES["61-70968-0043"][0]],
    "speaker_profile": [["test-clean/61/70968/61-70968-0049.wav", "test-clean/61/70968/61-70968-0057.wav"]],
    "speaker_profile_index": [0, 1],
    "wavs": [path_of("1089-134686-0000", "wav"), path_of("61-70968-0043", "wav")],
    "delays": [0.0, 1.300098917809877],
    "speakers": ["1089", "61"],
    "durations": [1.875, 1.5],
    "genders": ["m", "m"],
}


@pytest.fixture
def librispeechmix(tmp_path):
    """The folder of lists; LibriSpeech is beside it."""
    (tmp_path / "list").mkdir()
    (tmp_path / "list/test-clean-2mix.jsonl").write_text(json.dumps(MIX) + "\n")
    (tmp_path / "list/dev-clean-2mix.jsonl").write_text(json.dumps({**MIX, "id": "dev-clean-2mix-0000"}) + "\n")
    return tmp_path / "list"


def test_librispeechmix_is_what_its_script_writes(librispeechmix, tmp_path):
    wavs = write_librispeech(tmp_path / "LibriSpeech")
    manifest = f"test={librispeechmix}"
    table, bad = indexed(manifest, tmp_path / "LibriSpeech", layout="librispeechmix")
    assert not bad
    (row,) = table.to_pylist()
    assert (row["conversation_id"], row["split"], row["speakers"]) == ("test-clean-2mix-0000", "test", ["1089", "61"])
    assert [turn["start_sample"] for turn in row["turns"]] == [0, 20_801]  # 20,801.58: cut, not rounded
    assert [turn["text"] for turn in row["turns"]] == MIX["texts"]
    assert [turn["gender"] for turn in row["turns"]] == ["m", "m"]
    first, second = (wavs[name] for name in ("1089-134686-0000", "61-70968-0043"))
    second = np.append(np.zeros(int(MIX["delays"][1] * HZ)), second)
    total = np.zeros(max(len(first), len(second)))
    total[: len(first)] += first
    total[: len(second)] += second
    assert np.abs(total).max() > 1  # the script clips, and so do we
    assert np.array_equal(rendered(table)[0], written(total))


def test_lists_of_one_split_are_taken_where_it_is_named(librispeechmix):
    of_test = librispeechmix_files(Manifest.parse(f"test={librispeechmix}"))
    assert [path.name for path in of_test] == ["test-clean-2mix.jsonl"]
    every = read_librispeechmix(Manifest.parse(str(librispeechmix)))
    assert {one.split for one in every} == {"dev", "test"}


@pytest.mark.parametrize(
    ("change", "reason"),
    [({"delays": [0.0]}, "shorter|longer"), ({"wavs": None}, "not of LibriSpeechMix"), ({"id": None}, "")],
)
def test_a_bad_line_of_librispeechmix_is_named(tmp_path, change, reason):
    path = tmp_path / "test-clean-2mix.jsonl"
    row = {name: value for name, value in {**MIX, **change}.items() if value is not None}
    path.write_text(json.dumps(MIX) + "\n" + json.dumps(row) + "\n")
    with pytest.raises(InputError, match=f"line 2.*{reason}"):
        read_librispeechmix(Manifest(path=path))


HEADER = "mixture_ID,source_1_path,source_1_gain,source_2_path,source_2_gain,noise_path,noise_gain\n"


@pytest.fixture
def librimix(tmp_path):
    """Folder of the metadata, LibriSpeech, and WHAM with a noise shorter than the mixture."""
    names = ["1089-134686-0000", "61-70968-0043"]
    (tmp_path / "metadata").mkdir()
    line = (
        f"{'_'.join(names)},{path_of(names[0], 'flac')},0.6522426013163469,"
        f"{path_of(names[1], 'flac')},0.4052135302314628,tt/421c.wav,2.278939726509671\n"
    )
    (tmp_path / "metadata/libri2mix_test-clean.csv").write_text(HEADER + line)
    (tmp_path / "metadata/libri2mix_test-clean_info.csv").write_text("mixture_ID,speaker_1_ID\n")
    (tmp_path / "wham/tt").mkdir(parents=True)
    noise = 0.02 * np.random.default_rng(8).standard_normal((25_000, 2))
    soundfile.write(tmp_path / "wham/tt/421c.wav", noise, HZ, subtype="PCM_16")
    return tmp_path


def official(sources, gains):
    """The sum in mode `max`: each source times its gain, padded, added in single precision."""
    length = max(len(source) for source in sources)
    total = np.zeros(length, np.float32)
    for source, gain in zip(sources, gains, strict=True):
        total += np.pad(source * gain, (0, length - len(source)))
    return total


def test_librimix_clean_is_what_its_script_writes(librimix):
    write_librispeech(librimix / "LibriSpeech")
    table, bad = indexed(librimix / "metadata", librimix / "LibriSpeech", layout="librimix_clean")
    assert not bad
    (row,) = table.to_pylist()
    assert row["background"] is None
    assert [turn["text"] for turn in row["turns"]] == [UTTERANCES[n][0] for n in list(UTTERANCES)[:2]]
    assert json.loads(row["user_columns"]) == {"set": "Libri2Mix", "talkers": 2, "noise": "none"}
    sources = [
        soundfile.read(librimix / "LibriSpeech" / path_of(name, "flac"), dtype="float32")[0]
        for name in list(UTTERANCES)[:2]
    ]
    total = official(sources, [0.6522426013163469, 0.4052135302314628])
    assert np.array_equal(rendered(table)[0], written(total))


def test_librimix_noisy_is_what_its_script_writes(librimix):
    write_librispeech(librimix / "LibriSpeech")
    folders = (librimix / "LibriSpeech", librimix / "wham")
    table, bad = indexed(librimix / "metadata", *folders, layout="librimix_noisy")
    assert not bad
    sources = [
        soundfile.read(librimix / "LibriSpeech" / path_of(name, "flac"), dtype="float32")[0]
        for name in list(UTTERANCES)[:2]
    ]
    noise = soundfile.read(librimix / "wham/tt/421c.wav", dtype="float32")[0][:, 0]
    # Lengthened by a seam of half a second and a sample.
    window = np.hanning(HZ + 1)
    seam = noise[-8001:] * window[8000:] + noise[:8001] * window[:8001]
    longer = np.concatenate([noise[:-8001], seam, noise[8001:]])[: len(sources[0])]
    total = official([*sources, longer], [0.6522426013163469, 0.4052135302314628, 2.278939726509671])
    assert np.array_equal(rendered(table)[0], written(total))


def test_metadata_without_transcripts_or_sources_is_named(librimix):
    manifest = Manifest.parse(f"test={librimix / 'metadata'}")
    with pytest.raises(InputError, match=r"line 2.*missing file.*audio-roots"):
        read_librimix(manifest, [librimix])
    write_librispeech(librimix / "LibriSpeech")
    (librimix / "LibriSpeech/test-clean/61/70968/61-70968.trans.txt").write_text("61-70968-0001 OTHER\n")
    with pytest.raises(InputError, match="no transcript of 61-70968-0043"):
        read_librimix(manifest, [librimix / "LibriSpeech"])
    with pytest.raises(InputError, match="no metadata of LibriMix for train"):
        librimix_files(Manifest.parse(f"train={librimix / 'metadata'}"))
