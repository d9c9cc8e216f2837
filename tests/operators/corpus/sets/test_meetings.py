"""Recorded meetings in their own folders: sessions, labels, conditions and splits, and every fault by name."""

import gzip
import json
import shutil

import numpy as np
import pytest
import soundfile

from operators.corpus.manifest import Manifest
from operators.corpus.sets.layouts import LAYOUTS
from operators.corpus.sets.meetings import LIBRICSS_CONDITIONS
from operators.errors import InputError
from tests.operators.corpus.sets.test_given import HZ, indexed, rendered


def write_wav(path, seconds=3.0, channels=1, marked=0):
    """Write noise, with a tone in one channel alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    wav = 0.01 * np.random.default_rng(1).standard_normal((int(seconds * HZ), channels))
    wav[:, marked] += 0.1 * np.sin(2 * np.pi * 220 * np.arange(len(wav)) / HZ)
    soundfile.write(path, wav, HZ, subtype="PCM_16")


SESSIONS = {
    "0L": "overlap_ratio_0.0_sil2.9_3.0_session0_actual0.0",
    "0S": "overlap_ratio_0.0_sil0.1_0.5_session0_actual0.0",
    "OV10": "overlap_ratio_10.0_sil0.1_1.0_session0_actual10.1",
    "OV20": "overlap_ratio_20.0_sil0.1_1.0_session0_actual20.8",
    "OV30": "overlap_ratio_30.0_sil0.1_1.0_session0_actual29.7",
    "OV40": "overlap_ratio_40.0_sil0.1_1.0_session0_actual39.5",
}


def libricss(folder):
    for condition, name in SESSIONS.items():
        session = folder / "for_release" / condition / name
        write_wav(session / "record/raw_recording.wav", channels=7)
        write_wav(session / "clean/mix.wav")
        (session / "transcription").mkdir()
        (session / "transcription/meeting_info.txt").write_text(
            "start_time\tend_time\tspeaker\tutterance_id\ttranscription\n"
            "0.25\t1.5\t4992\t4992-41806-0011\tTHIS WAS WHAT DID THE MISCHIEF\n"
            "1.0\t2.75\t1320\t1320-122617-0012\tSO FAR\n"
        )
    return folder


def notsofar(folder):
    meeting = folder / "benchmark-datasets/dev_set/240825.1_dev1/MTG/MTG_30830"
    for device in ("sc_plaza_0", "sc_rockfall_2"):
        write_wav(meeting / device / "ch0.wav")
    write_wav(meeting / "mc_plaza_0/ch0.wav")
    write_wav(meeting / "close_talk/CT_21.wav")
    segments = [
        {
            "speaker_id": "Olivia",
            "ct_wav_file_name": "close_talk/CT_21.wav",
            "start_time": 0.5,
            "end_time": 1.5,
            "text": "So <ST/> hello.",
            "word_timing": [["<ST/>", 0.5, 0.5], ["So", 0.5, 0.75], ["hello.", 0.8, 1.4]],
        },
        {"speaker_id": "Jim", "start_time": 1.25, "end_time": 2.5, "text": "Hi there", "word_timing": []},
        {"speaker_id": "Jim", "start_time": 2.5, "end_time": 2.75, "text": "<UNKNOWN/>", "word_timing": []},
    ]
    (meeting / "gt_transcription.json").write_text(json.dumps(segments))
    (meeting / "gt_meeting_metadata.json").write_text(
        json.dumps({"MeetingId": "MTG_30830", "MtgType": "mtg", "Hashtags": "#NaturalMeeting, #TransientNoise=high"})
    )
    return folder


def chime6(folder):
    for channel in (1, 2, 3, 4):
        write_wav(folder / f"audio/eval/S01_U01.CH{channel}.wav")
    write_wav(folder / "audio/dev/S02_U02.CH1.wav")
    rows = [
        {
            "end_time": "0:00:01.50",
            "start_time": "0:00:00.25",
            "words": "[laughs] what did you [inaudible 0:00:01.00] say?",
            "speaker": "P01",
            "ref": "U02",
            "location": "kitchen",
            "session_id": "S01",
        },
        {
            "end_time": "0:00:02.50",
            "start_time": "0:00:01.00",
            "words": "nothing",
            "speaker": "P02",
            "session_id": "S01",
        },
        {"end_time": "0:00:02.00", "start_time": "0:00:02.10", "words": "odd", "speaker": "P02", "session_id": "S01"},
        {
            "end_time": "0:00:02.90",
            "start_time": "0:00:02.60",
            "words": "[noise]",
            "speaker": "P01",
            "session_id": "S01",
        },
    ]
    for part, session in (("eval", "S01"), ("dev", "S02")):
        (folder / "transcriptions" / part).mkdir(parents=True)
        (folder / "transcriptions" / part / f"{session}.json").write_text(json.dumps(rows))
    return folder


def ami(folder):
    for microphone, sound in (("ihm-mix", "Mix-Headset"), ("sdm", "Array1-01")):
        for part, meeting in (("train", "ES2002a"), ("test", "EN2002a")):
            audio = folder / f"wav/{meeting}.{sound}.wav"
            write_wav(audio)
            recording = {
                "id": meeting,
                "sources": [{"type": "file", "channels": [0], "source": str(audio)}],
                "sampling_rate": HZ,
                "num_samples": 3 * HZ,
                "duration": 3.0,
                "channel_ids": [0],
            }
            supervisions = [
                {
                    "id": f"{meeting}-{number}",
                    "recording_id": meeting,
                    "start": start,
                    "duration": 1.0,
                    "channel": [0] if microphone == "sdm" else 0,
                    "text": text,
                    "language": "English",
                    "speaker": speaker,
                    "gender": "F",
                    "alignment": {"word": [[text, start, 0.5]]},
                }
                for number, (start, speaker, text) in enumerate([(0.25, "FEO065", "OKAY"), (1.0, "MEE066", "YEAH")])
            ]
            for kind, rows in (("recordings", [recording]), ("supervisions", supervisions)):
                text = "".join(json.dumps(row) + "\n" for row in rows)
                (folder / f"ami-{microphone}_{kind}_{part}.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    return folder


def libriconvo(folder):
    write_wav(folder / "test/0.wav")
    row = {
        "file_name": "0.wav",
        "segment_conversation_id": "42_0",
        "start_time": [0.1, 1.5],
        "end_time": [1.6, 2.5],
        "text": ["One two.", "Three."],
        "abstract_symbol": ["A", "B"],
    }
    (folder / "test/metadata.jsonl").write_text(json.dumps(row) + "\n")
    return folder


def rows_of(folder, layout, split=""):
    table, bad = indexed(f"{split}={folder}" if split else folder, layout=layout)
    assert not bad, bad
    return table, {row["conversation_id"]: row for row in table.to_pylist()}


def columns(row):
    return json.loads(row["user_columns"])


def said(row):
    return [(t["speaker"], t["start_sample"] / HZ, t["num_samples"] / HZ, t["text"]) for t in row["turns"]]


def test_libricss_has_all_conditions_as_columns(tmp_path):
    _, rows = rows_of(libricss(tmp_path), "libricss")
    assert {columns(row)["condition"] for row in rows.values()} == set(LIBRICSS_CONDITIONS)
    row = rows["OV20_session0"]
    assert columns(row) | {"overlap_share": 0.208, "microphone": "array-0", "session": "session0"} == columns(row)
    assert row["split"] == "test"
    assert said(row)[0] == ("4992", 0.25, 1.25, "THIS WAS WHAT DID THE MISCHIEF")
    assert row["recording"]["channel"] == 0


def test_libricss_takes_the_arrays_first_channel_or_the_clean_sum(tmp_path):
    folder = libricss(tmp_path)
    for name in SESSIONS:
        shutil.rmtree(folder / "for_release" / name) if name != "OV10" else None
    session = folder / "for_release/OV10" / SESSIONS["OV10"]
    write_wav(session / "record/raw_recording.wav", channels=7, marked=3)
    noise, _ = rendered(rows_of(folder, "libricss")[0])
    tone, _ = rendered(rows_of(folder, "libricss_clean")[0])
    strength = [np.abs(np.fft.rfft(wav))[660] / np.linalg.norm(wav) for wav in (noise, tone)]
    assert strength[0] < 10 < strength[1]


def test_notsofar_is_one_conversation_for_each_single_channel_device(tmp_path):
    _, rows = rows_of(notsofar(tmp_path), "notsofar", "test")
    assert set(rows) == {"MTG_30830_sc_plaza_0", "MTG_30830_sc_rockfall_2"}
    row = rows["MTG_30830_sc_rockfall_2"]
    assert columns(row)["microphone"] == "sc_rockfall"
    assert columns(row)["meeting_type"] == "mtg"
    assert columns(row)["conditions"] == "#NaturalMeeting, #TransientNoise=high"
    assert said(row) == [("Olivia", 0.5, 1.0, "So hello."), ("Jim", 1.25, 1.25, "Hi there")]
    assert [w["word"] for w in row["turns"][0]["words"]] == ["So", "hello."]
    (manifest,) = [Manifest.parse(str(tmp_path))]
    assert {one.split for one in LAYOUTS["notsofar"].read(manifest, ())} == {"dev"}


def test_chime6_is_the_first_channel_and_its_words_without_marks(tmp_path):
    _, rows = rows_of(chime6(tmp_path), "chime6", "test")
    (row,) = rows.values()
    assert (row["conversation_id"], row["split"]) == ("S01", "test")
    assert columns(row)["microphone"] == "U01.CH1"
    assert said(row) == [("P01", 0.25, 1.25, "what did you say?"), ("P02", 1.0, 1.5, "nothing")]
    every = LAYOUTS["chime6"].read(Manifest.parse(str(tmp_path)), ())
    assert {one.recording_id: one.split for one in every} == {"S01": "test", "S02": "dev"}


@pytest.mark.parametrize(("layout", "sound"), [("ami_ihm_mix", "Mix-Headset"), ("ami_sdm", "Array1-01")])
def test_ami_keeps_its_split_and_microphone(tmp_path, layout, sound):
    _, rows = rows_of(ami(tmp_path), layout)
    assert {name: row["split"] for name, row in rows.items()} == {"ES2002a": "train", "EN2002a": "test"}
    assert sound in rows["EN2002a"]["recording"]["audio"]
    assert columns(rows["EN2002a"]) == {"set": "AMI", "microphone": layout[4:].replace("_", "-"), "site": "EN"}
    assert [t["speaker"] for t in rows["EN2002a"]["turns"]] == ["FEO065", "MEE066"]
    assert set(rows_of(tmp_path, layout, "test")[1]) == {"EN2002a"}


def test_libriconvo_has_a_turn_for_every_entry_of_its_lists(tmp_path):
    _, rows = rows_of(libriconvo(tmp_path), "libriconvo", "test")
    assert said(rows["42_0"]) == [("A", 0.1, 1.5, "One two."), ("B", 1.5, 1.0, "Three.")]


MADE = {
    "libricss": libricss,
    "libricss_clean": libricss,
    "notsofar": notsofar,
    "chime6": chime6,
    "ami_ihm_mix": ami,
    "ami_sdm": ami,
    "libriconvo": libriconvo,
}


@pytest.mark.parametrize("layout", MADE)
def test_an_empty_folder_is_refused(tmp_path, layout):
    with pytest.raises(InputError):
        LAYOUTS[layout].read(Manifest(path=tmp_path), ())


@pytest.mark.parametrize("layout", MADE)
def test_the_digest_of_a_set_follows_its_labels(tmp_path, layout):
    manifest = Manifest(path=MADE[layout](tmp_path))
    assert LAYOUTS[layout].files(manifest)
    assert all(path.is_file() for path in LAYOUTS[layout].files(manifest))


@pytest.mark.parametrize(
    ("layout", "pattern", "text", "reason"),
    [
        ("libricss", "OV10/*/transcription/meeting_info.txt", "header\n0.5\tx\n", "entry 1 is not a segment"),
        ("notsofar", "MTG_30830/gt_transcription.json", '[{"start_time": 1}]', "lacks 'end_time'"),
        ("notsofar", "MTG_30830/gt_transcription.json", "[", "cannot be read"),
        ("chime6", "transcriptions/eval/S01.json", '[{"start_time": "0:00:xx", "end_time": "1"}]', "entry 1"),
        ("libriconvo", "test/metadata.jsonl", '{"file_name": "0.wav"}\n', "lacks 'start_time'"),
    ],
)
def test_a_malformed_label_is_named(tmp_path, layout, pattern, text, reason):
    folder = MADE[layout](tmp_path)
    (path,) = folder.rglob(pattern)
    path.write_text(text)
    with pytest.raises(InputError, match=f"{path.name}.*{reason}"):
        LAYOUTS[layout].read(Manifest(path=folder), ())
