"""Recognizers as baselines: what they hear of a mixture, whatever else is in the batch, and what is made of it."""

import itertools
import json

import numpy as np
import pyarrow as pa
import pytest

from operators.errors import InputError
from operators.evaluate.recognize import Recognize
from operators.evaluate.recognizers import load_recognizer
from operators.schema import AUDIO

RATE_HZ = 16_000


class Echo:
    """Says where a stretch comes from: samples that hold their own place in tenths of a second."""

    name, longest_s, digest = "echo", 2.0, "echo-1"

    def recognize(self, stretches, languages):
        return [f"{one[0]}-{one[-1]}{language or ''}" for one, language in zip(stretches, languages, strict=True)]


def conversation(name, seconds, turns):
    samples = (np.arange(int(seconds * RATE_HZ)) // (RATE_HZ // 10)).astype(np.int16)
    return {
        "conversation_id": name,
        "origin": "simulated",
        "sample_rate_hz": RATE_HZ,
        "num_samples": len(samples),
        "samples": samples.tolist(),
        "turns": [
            {
                "speaker": speaker,
                "start_sample": round(start_s * RATE_HZ),
                "num_samples": round((end_s - start_s) * RATE_HZ),
                "language": language,
            }
            for speaker, start_s, end_s, language in turns
        ],
    }


def heard(over, *conversations, longest_s=2.0):
    operator = Recognize(recognizer="echo", over=over, frame_rate_hz=50.0)
    recognizer = Echo()
    recognizer.longest_s = longest_s
    operator.__dict__["loaded"] = recognizer
    return operator(pa.Table.from_pylist(conversations, schema=AUDIO)).to_pylist()


ONE = conversation("one", 3.0, [("ann", 0.5, 1.5, "en"), ("bob", 1.2, 2.0, "en"), ("ann", 2.95, 3.0, "en")])
OTHER = conversation("other", 5.0, [("eve", 0.0, 4.5, "de"), ("ann", 4.5, 5.0, None)])


def test_an_oracle_hears_each_turn_of_its_speaker_where_it_is():
    (row,) = heard("segments", ONE)
    assert [(t["speaker"], t["text"], t["start_s"], t["end_s"]) for t in row["turns"]] == [
        ("ann", "5-14en", 0.5, 1.5),
        ("bob", "12-19en", 1.2, 2.0),  # 50 ms are nothing to recognize
    ]
    assert row["windows"] == [{"start_frame": 0, "num_frames": 150, "own_start_frame": 0, "own_num_frames": 150}]


@pytest.mark.parametrize("longest_s", [0.5, 2.0, 60.0])
def test_all_of_a_mixture_is_heard_once_in_stretches_that_fit(longest_s):
    (row,) = heard("mixture", OTHER, longest_s=longest_s)
    times = [(turn["start_s"], turn["end_s"]) for turn in row["turns"]]
    assert times[0][0] == 0.0
    assert times[-1][1] == 5.0
    assert all(end == start for (_, end), (start, _) in itertools.pairwise(times))
    assert all(end - start <= longest_s + 1e-9 for start, end in times)
    assert {turn["speaker"] for turn in row["turns"]} == {"all"}


def test_turns_longer_than_a_recognizer_takes_are_heard_in_parts():
    (row,) = heard("segments", OTHER)
    own = [turn for turn in row["turns"] if turn["speaker"] == "eve"]
    assert len(own) >= 3
    assert (own[0]["start_s"], own[-1]["end_s"]) == (0.0, 4.5)


@pytest.mark.parametrize("over", ["segments", "mixture"])
def test_what_is_heard_does_not_depend_on_the_batch(over):
    assert heard(over, ONE, OTHER) == heard(over, ONE) + heard(over, OTHER)


def test_other_rates_are_resampled(monkeypatch):
    monkeypatch.setattr(Echo, "recognize", lambda self, stretches, languages: [str(len(one)) for one in stretches])
    slow = conversation("one", 3.0, [("ann", 0.5, 1.5, "en")]) | {"sample_rate_hz": 8000}
    slow["turns"][0] |= {"start_sample": 4000, "num_samples": 8000}
    (row,) = heard("segments", slow)
    (turn,) = row["turns"]
    assert (turn["text"], turn["start_s"], turn["end_s"]) == ("16000", 0.5, 1.5)


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(InputError, match=r"has no config.json.*folder of a Whisper"):
        load_recognizer(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    for name in ("model.safetensors", "tokenizer.json"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(InputError, match="type llama, not whisper"):
        load_recognizer(str(tmp_path))


# -------------------------------------------------------------------------------------------------------- PocketSphinx


def test_pocketsphinx_hears_each_stretch_by_itself():
    pytest.importorskip("pocketsphinx")
    recognizer = load_recognizer("pocketsphinx")
    generator = np.random.default_rng(5)
    noise = [generator.normal(0, level, RATE_HZ).astype(np.int16) for level in (300, 3000, 30)]
    forward = recognizer.recognize(noise, ["en", None, "en-GB"])
    assert recognizer.recognize(noise[::-1], [None] * 3)[::-1] == forward
    assert recognizer.recognize([noise[1]], [None]) == [forward[1]]
    with pytest.raises(InputError, match="knows English, not de"):
        recognizer.recognize(noise[:1], ["de"])


# ------------------------------------------------------------------------------------------------------------- Whisper


@pytest.fixture(scope="module")
def whisper(tmp_path_factory):
    """A Whisper of random weights with the tokens of the real one."""
    transformers = pytest.importorskip("transformers")
    import torch
    from tokenizers import Tokenizer
    from tokenizers.decoders import ByteLevel
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import ByteLevel as PreByteLevel

    folder = tmp_path_factory.mktemp("whisper") / "tiny-random"
    words = sorted(PreByteLevel.alphabet())
    vocabulary = {letter: number for number, letter in enumerate(words)}
    fill = 50_257 - len(vocabulary)
    vocabulary |= {f"word{number}": len(words) + number for number in range(fill)}
    tokenizer = Tokenizer(BPE(vocabulary, []))
    tokenizer.decoder = ByteLevel()
    languages = [f"<|l{number}|>" for number in range(97)]
    special = ["<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|de|>", *languages, "<|translate|>"]
    special += ["<|transcribe|>", "<|startoflm|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>"]
    tokenizer.add_special_tokens(special)
    config = transformers.WhisperConfig(
        vocab_size=51_865, d_model=32, encoder_layers=1, decoder_layers=2, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=64, decoder_ffn_dim=64, max_target_positions=24,
    )  # fmt: skip
    torch.manual_seed(3)
    model = transformers.WhisperForConditionalGeneration(config)
    with torch.no_grad():  # what is heard must count, not only the last token
        for parameter in model.parameters():
            parameter.mul_(4.0)
    model.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def test_whisper_decodes_as_transformers_does(whisper):
    import torch
    import transformers
    from transformers.generation import GenerationMixin

    recognizer = load_recognizer(str(whisper))
    noise = np.random.default_rng(1).normal(0, 3000, 30_000)
    tone = 9000 * np.sin(np.arange(16_000) / 5)
    sounds = [sound.astype(np.int16) for sound in (noise[:8000] / 100, noise, tone)]
    ours = recognizer.recognize(sounds, ["de", "en", "de"])

    model = transformers.WhisperForConditionalGeneration.from_pretrained(whisper).eval()
    extract = transformers.WhisperFeatureExtractor()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(whisper / "tokenizer.json"))
    ids = tokenizer.get_vocab()
    theirs = []
    for sound, language in zip(sounds, ("de", "en", "de"), strict=True):
        prompt = [ids[f"<|{name}|>"] for name in ("startoftranscript", language, "transcribe", "notimestamps")]
        features = extract(sound.astype(np.float32) / 32768, sampling_rate=RATE_HZ, return_tensors="pt").input_features
        made = GenerationMixin.generate(
            model, input_features=features, decoder_input_ids=torch.tensor([prompt]), do_sample=False, num_beams=1,
            max_length=24, eos_token_id=ids["<|endoftext|>"], pad_token_id=ids["<|endoftext|>"],
            suppress_tokens=list(range(ids["<|endoftext|>"] + 1, 51_865)),
            begin_suppress_tokens=[ids["<|endoftext|>"]],
        )  # fmt: skip
        answer = [token for token in made[0, len(prompt) :].tolist() if token != ids["<|endoftext|>"]]
        theirs.append(tokenizer.decode(answer).strip())
    assert ours == theirs
    assert len(set(ours)) == 3


def test_whisper_finds_a_language_where_none_is_known(whisper):
    import torch
    import transformers

    recognizer = load_recognizer(str(whisper))
    sound = np.random.default_rng(1).normal(0, 3000, 16_000).astype(np.int16)
    model = transformers.WhisperForConditionalGeneration.from_pretrained(whisper).eval()
    ids = transformers.PreTrainedTokenizerFast(tokenizer_file=str(whisper / "tokenizer.json")).get_vocab()
    features = transformers.WhisperFeatureExtractor()(
        sound.astype(np.float32) / 32768, sampling_rate=RATE_HZ, return_tensors="pt"
    ).input_features
    start = torch.tensor([[ids["<|startoftranscript|>"]]])
    with torch.no_grad():
        logits = model(features, decoder_input_ids=start).logits[0, -1]
    likeliest = max(("en", "de", *(f"l{number}" for number in range(97))), key=lambda name: logits[ids[f"<|{name}|>"]])
    assert recognizer.recognize([sound], [None]) == recognizer.recognize([sound], [likeliest])
    with pytest.raises(InputError, match="does not know language xx"):
        recognizer.recognize([sound], ["xx"])


def test_other_weights_are_another_recognizer(whisper, tmp_path):
    import shutil

    shutil.copytree(whisper, tmp_path / "other")
    before = load_recognizer(str(whisper)).digest
    assert load_recognizer(str(tmp_path / "other")).digest == before
    with (tmp_path / "other" / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x01")
    assert load_recognizer(str(tmp_path / "other")).digest != before
