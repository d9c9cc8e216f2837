"""Corpora in the forms that people have them become the same index: a tiny one of each is made here."""

import csv
import gzip
import io
import json
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import yaml

from operators.corpus.forms import FORMS, manifests_digest, recognize
from operators.corpus.forms.imports import import_corpus
from operators.corpus.index import index_utterances
from operators.corpus.manifest import Manifest, Reading, corpus_roots
from operators.corpus.sources import read_source
from operators.errors import InputError

SPEAKERS = ("84", "174")
ROWS = [(f"{who}-1-{n:04d}", who, f"some words {n} are read") for who in SPEAKERS for n in range(2)]


def sound(path, seconds=0.5, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    wav = np.random.default_rng([seed, *path.name.encode()]).normal(0, 0.05, int(16_000 * seconds))
    soundfile.write(path, wav, 16_000)
    return path


def lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def nemo(top):
    for name, _, _ in ROWS:
        sound(top / f"{name}.wav")
    rows = [{"audio_filepath": f"{n}.wav", "duration": 0.5, "text": t, "speaker": s} for n, s, t in ROWS]
    lines(top / "train_manifest.json", rows)


def librispeech(top):
    for name, who, text in ROWS:
        folder = sound(top / "dev-clean" / who / "1" / f"{name}.flac").parent
        with open(folder / f"{who}-1.trans.txt", "a") as file:
            file.write(f"{name} {text.upper()}\n")
    (top / "SPEAKERS.TXT").write_text("; ID|SEX\n84 | F | dev-clean | 8.0 | A B\n174 | M | dev-clean | 8.0 | C D\n")


def libritts(top):
    for name, who, text in ROWS:
        libri = name.replace("-", "_")
        path = sound(top / "dev-clean" / who / "1" / f"{libri}_000000.wav")
        path.with_suffix(".normalized.txt").write_text(text)
        path.with_suffix(".original.txt").write_text(text)


def vctk(top):
    for name, who, text in ROWS:
        sound(top / "wav48_silence_trimmed" / f"p{who}" / f"{name}_mic1.flac")
        sound(top / "wav48_silence_trimmed" / f"p{who}" / f"{name}_mic2.flac")
        lines(top / "txt" / f"p{who}" / f"{name}.txt", [text])
    (top / "speaker-info.txt").write_text("ID  AGE  GENDER  ACCENTS\np84  23  F  English\np174  22  M  English\n")


def wav_and_txt(top):
    for name, who, text in ROWS:
        sound(top / who / f"{name}.wav").with_suffix(".txt").write_text(text + "\n")


def audiofolder(top):
    for name, _, _ in ROWS:
        sound(top / "train" / f"{name}.wav")
    with open(top / "train" / "metadata.csv", "w", newline="") as file:
        rows = [(f"{n}.wav", f'{t}, "so"', s) for n, s, t in ROWS]
        csv.writer(file).writerows([("file_name", "transcription", "speaker_id"), *rows])


def audiofolder_lines(top):
    for name, _, _ in ROWS:
        sound(top / f"{name}.wav")
    rows = [{"file_name": f"{n}.wav", "transcription": t, "speaker_id": int(s)} for n, s, t in ROWS]
    lines(top / "metadata.jsonl", rows)


def parquet_paths(top):
    for name, _, _ in ROWS:
        sound(top / "wav" / f"{name}.wav")
    columns = {"audio": [f"wav/{n}.wav" for n, _, _ in ROWS], "sentence": [t for *_, t in ROWS]}
    pq.write_table(pa.table({**columns, "speaker_id": [s for _, s, _ in ROWS]}), top / "data.parquet")


def kaldi(top):
    for name, _, _ in ROWS:
        sound(top / "wav" / f"{name}.wav")
    for kind, line in {"wav.scp": "{0} wav/{0}.wav", "text": "{0}\t{2}", "utt2spk": "{0}\t {1}"}.items():
        (top / kind).write_text("".join(line.format(*row) + "\n" for row in ROWS))


def kaldi_segments(top):
    sound(top / "long.wav", seconds=2.0)
    (top / "wav.scp").write_text("rec\tlong.wav\n")
    (top / "segments").write_text("".join(f"{n} rec {i / 2}\t{i / 2 + 0.5}\n" for i, (n, _, _) in enumerate(ROWS)))
    for kind, line in {"text": "{0} {2}", "utt2spk": "{0} {1}"}.items():
        (top / kind).write_text("".join(line.format(*row) + "\n" for row in ROWS))


def common_voice(top):
    for name, _, _ in ROWS:
        sound(top / "clips" / f"{name}.mp3")
    for split, part in (("train", ROWS[:2]), ("dev", ROWS[2:])):
        table = [("client_id", "path", "sentence", "locale"), *((s, f"{n}.mp3", f'"{t}', "en") for n, s, t in part)]
        lines(top / f"{split}.tsv", ["\t".join(row) for row in table])


def webdataset(top):
    top.mkdir()
    with tarfile.open(top / "000000.tar", "w") as tar:
        for name, who, text in ROWS:
            wav = sound(top.parent / "scratch" / f"{name}.flac").read_bytes()
            told = json.dumps({"speaker": who}).encode()
            for suffix, data in (("flac", wav), ("json", told), ("txt", text.encode())):
                info = tarfile.TarInfo(f"{name}.{suffix}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


def lhotse_rows(top):
    for name, _, _ in ROWS:
        sound(top / f"{name}.wav")
    sources = {n: [{"type": "file", "channels": [0], "source": f"{n}.wav"}] for n, _, _ in ROWS}
    recordings = [{"id": n, "sources": sources[n], "sampling_rate": 16_000, "num_samples": 8000} for n, _, _ in ROWS]
    said = [
        {"id": n, "recording_id": n, "start": 0, "duration": 0.5, "channel": 0, "text": t, "speaker": s}
        for n, s, t in ROWS
    ]
    return recordings, said


def lhotse_yaml(top):
    for kind, rows in zip(("recordings", "supervisions"), lhotse_rows(top), strict=True):
        (top / f"{kind}.yaml").write_text(yaml.safe_dump(rows))


def lhotse_array(top):
    cuts = [
        {
            "id": r["id"],
            "type": "MonoCut",
            "start": 0,
            "duration": 0.5,
            "channel": 0,
            "recording": r,
            "supervisions": [s],
        }
        for r, s in zip(*lhotse_rows(top), strict=True)
    ]
    with gzip.open(top / "cuts.json.gz", "wt") as file:
        json.dump(cuts, file, indent=2)


MADE = {
    nemo: "lists",
    librispeech: "librispeech",
    libritts: "libritts",
    vctk: "vctk",
    wav_and_txt: "texts",
    audiofolder: "tables",
    audiofolder_lines: "tables",
    parquet_paths: "parquet",
    kaldi: "kaldi",
    kaldi_segments: "kaldi",
    common_voice: "common_voice",
    webdataset: "webdataset",
    lhotse_yaml: "lists",
    lhotse_array: "lists",
}


def load(path, **reading):
    return index_utterances([Manifest.parse(str(path), Reading(**reading))])


@pytest.mark.parametrize("make", MADE, ids=lambda make: make.__name__)
def test_a_corpus_is_read_as_people_have_it(make, tmp_path):
    make(tmp_path / "corpus")
    manifest = Manifest.parse(str(tmp_path / "corpus"))
    assert recognize(manifest)[0] == MADE[make]
    table, bad = index_utterances([manifest])
    rows = table.to_pylist()
    assert not bad
    assert {row["speaker"].removeprefix("p") for row in rows} == set(SPEAKERS)
    assert sorted(row["text_normalized"].removesuffix(" so") for row in rows) == sorted(text for *_, text in ROWS)
    for row in rows:
        assert len(read_source(row, corpus_roots([manifest]))) == row["source_num_samples"] >= 8000
    # The digest is of what is there, and of no path.
    before = manifests_digest([manifest])
    (tmp_path / "corpus").rename(tmp_path / "moved")
    assert manifests_digest([Manifest.parse(str(tmp_path / "moved"))]) == before


def test_every_form_has_a_corpus_here():
    assert {*MADE.values(), "ljspeech"} == set(FORMS)


def test_ljspeech_has_one_speaker_with_the_folders_name(tmp_path):
    top = tmp_path / "LJSpeech-1.1"
    for name, _, _ in ROWS:
        sound(top / "wavs" / f"{name}.wav")
    lines(top / "metadata.csv", [f'{n}|Some "words|{t}' for n, _, t in ROWS])
    table, bad = load(top)
    assert not bad
    assert set(table["speaker"].to_pylist()) == {"LJSpeech-1.1"}
    assert table["text"].to_pylist() == [text for _, _, text in sorted(ROWS)]


def test_trees_say_split_gender_and_chapter(tmp_path):
    librispeech(tmp_path / "a")
    row = load(tmp_path / "a")[0].filter(pa.compute.field("utterance_id") == "84-1-0001").to_pylist()[0]
    assert (row["split"], row["gender"], row["chapter"], row["position"]) == ("dev-clean", "f", "1", 1000)
    vctk(tmp_path / "b")
    table, _ = load(tmp_path / "b")
    assert set(table["gender"].to_pylist()) == {"f", "m"}
    assert all(name.endswith("_mic1.flac") for name in table["audio"].to_pylist())


def test_rows_of_one_file_have_ids_of_file_and_span_that_stay(tmp_path):
    for folder in ("p", "q"):
        sound(tmp_path / folder / "00001.wav", seconds=2.0, seed=ord(folder))
        spans = [{"offset": 0.0, "duration": 0.9}, {"offset": 1.0, "duration": 0.9}]
        lines(
            tmp_path / f"{folder}.jsonl",
            [{"audio": f"{folder}/00001.wav", "text": "a", "speaker": folder, **s} for s in spans],
        )
    both = index_utterances([Manifest.parse(str(tmp_path / f"{folder}.jsonl")) for folder in ("p", "q")])[0]
    ids = both["utterance_id"].to_pylist()
    assert len(set(ids)) == 4
    assert all(one.startswith("00001-") for one in ids)
    assert set(load(tmp_path / "q.jsonl")[0]["utterance_id"].to_pylist()) < set(ids)


@pytest.mark.parametrize(
    ("rule", "found"), [("folder", ["r"]), ("prefix", ["84", "174"]), (r"/\w/(\d)", ["8", "1"])], ids=str
)
def test_speakers_are_found_in_paths_by_a_rule_where_rows_name_none(tmp_path, rule, found):
    for name, _, _ in ROWS:
        sound(tmp_path / "r" / f"{name}.wav")
    lines(tmp_path / "m.jsonl", [{"audio_filepath": f"r/{n}.wav", "text": t} for n, _, t in ROWS])
    table, bad = load(tmp_path / "m.jsonl")
    assert (table.num_rows, {one.reason for one in bad}) == (0, {f"m.jsonl:{i}: no speaker" for i in range(1, 5)})
    table, bad = load(tmp_path / "m.jsonl", speaker_from=rule)
    assert not bad
    assert set(table["speaker"].to_pylist()) == set(found)
    assert "--corpus.speaker-from (x)" in load(tmp_path / "m.jsonl", speaker_from="(x)")[1][0].reason


def test_fields_are_mapped_and_a_map_of_nothing_is_refused(tmp_path):
    sound(tmp_path / "a.wav")
    lines(tmp_path / "m.jsonl", [{"audio": "a.wav", "text": "no", "spoken": "yes", "reader": "x"}])
    (row,) = load(tmp_path / "m.jsonl", renamed=(("text", "spoken"), ("speaker", "reader")))[0].to_pylist()
    assert (row["text"], row["speaker"]) == ("yes", "x")
    with pytest.raises(InputError, match=r"--corpus.map txt=spoken is not FIELD=NAME, where FIELD is audio, text"):
        Reading.parse(["txt=spoken"], None, ("audio", "text"), ())
    with pytest.raises(InputError, match=r"neither folder nor a regular expression"):
        Reading.parse([], "(", ("audio",), ("folder",))


def test_sound_in_parquet_is_refused_with_the_command_that_unpacks_it(tmp_path):
    data = [{"bytes": sound(tmp_path / f"{n}.flac").read_bytes(), "path": f"{n}.flac"} for n, _, _ in ROWS]
    table = pa.table({"audio": data, "text": [t for *_, t in ROWS], "speaker_id": [s for _, s, _ in ROWS]})
    (tmp_path / "hf").mkdir()
    pq.write_table(table, tmp_path / "hf" / "train-00000.parquet")
    with pytest.raises(InputError, match=r"hubbub data import .*hf FOLDER"):
        load(tmp_path / "hf")
    number, problems = import_corpus(Manifest.parse(str(tmp_path / "hf")), tmp_path / "out")
    assert (number, problems) == (4, {})
    rows, bad = load(tmp_path / "out")
    assert (rows.num_rows, bad, set(rows["speaker"].to_pylist())) == (4, [], set(SPEAKERS))
    with pytest.raises(InputError, match="exists"):
        import_corpus(Manifest.parse(str(tmp_path / "hf")), tmp_path / "out")


@pytest.mark.parametrize("make", [librispeech, kaldi_segments, webdataset], ids=lambda make: make.__name__)
def test_an_import_says_what_reading_in_place_says(make, tmp_path):
    make(tmp_path / "corpus")
    import_corpus(Manifest.parse(str(tmp_path / "corpus")), tmp_path / "out")
    same = ["utterance_id", "speaker", "text", "source_start_sample", "source_num_samples", "fingerprint", "chapter"]
    assert load(tmp_path / "out")[0].select(same).equals(load(tmp_path / "corpus")[0].select(same))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["a.wav"], r"\(1 .wav\); it is nearest to sound files with texts: put NAME.txt beside each NAME.wav"),
        (["a.wav", "a.stm"], r"with .stm it is of recorded conversations: --corpus.recorded "),
        (["train/x.jsonl"], r"give the folders that do: --corpus.manifests .*/train"),
        (["a.pdf"], r"docs/corpora.md lists the forms"),
        ([], r"it is empty"),
    ],
)
def test_a_refusal_names_what_is_there_the_nearest_form_and_the_next_step(tmp_path, files, message):
    for name in files:
        sound(tmp_path / name) if name.endswith(".wav") else lines(tmp_path / name, ["x"])
    with pytest.raises(InputError, match=f"contains no manifest.*{message}"):
        load(tmp_path)


def test_commands_and_archives_of_kaldi_are_quarantined_and_never_run(tmp_path):
    kaldi(tmp_path)
    (tmp_path / "wav.scp").write_text(f"{ROWS[0][0]} touch {tmp_path}/ran |\n{ROWS[1][0]} raw.ark:12\n")
    table, bad = load(tmp_path)
    assert table.num_rows == 0
    assert "wav.scp:1: wav.scp has a command, which is not run" in bad[0].reason
    assert "archive" in bad[1].reason
    assert not (tmp_path / "ran").exists()
