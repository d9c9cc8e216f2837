"""What every synthesizer in the table `operators.corpus.voices.SYNTHESIZERS` does.

Kokoro's folder, which `make voices` writes to runs/kokoro, is looked for there or where HUBBUB_KOKORO says.
"""

import importlib
import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from operators.corpus.voices import SYNTHESIZERS, load_synthesizer, synthesizer_entry
from operators.digest import digest_bytes
from operators.errors import InputError
from operators.evaluate.generated.speakers import find_speaker_encoder

ROOT = Path(__file__).parents[4]
KOKORO = Path(os.environ.get("HUBBUB_KOKORO", ROOT / "runs" / "kokoro"))
TEXTS = (
    "mister quilter is the apostle of the middle classes",
    "he has grave doubts about the work of the painter",
    "we walked along the river until it was dark",
)

SHORT = ("it was dark", "we ran home")

SPEAK = """
import json, sys
from operators.corpus.voices import load_synthesizer
from operators.digest import digest_bytes
made = load_synthesizer(sys.argv[1])
print(json.dumps([digest_bytes(made.speak(*one).tobytes()) for one in json.loads(sys.argv[2])]))
"""


def family(name):
    return f"{name}:{KOKORO}" if synthesizer_entry(name).needs_folder else name


def loaded(name):
    try:
        return load_synthesizer(family(name))
    except InputError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module", params=SYNTHESIZERS)
def synthesizer(request):
    return loaded(request.param)


@pytest.fixture
def name(request):
    return re.search(r"\[([a-z]+)\]", request.node.name)[1]


def some(synthesizer):
    """Two voices, or the one that there is twice; where it mixes, the second is a mixture."""
    voices = synthesizer.voices()
    return voices[0], f"{voices[0]}+{voices[-1]}" if synthesizer.mixes else voices[-1]


def test_voices_say_who_they_are_and_under_which_licence(synthesizer, name):
    voices = synthesizer.voices()
    assert voices
    assert len(set(voices)) == len(voices)
    assert synthesizer_entry(name).about
    assert synthesizer.program
    assert synthesizer.program_licence
    for voice in voices:
        assert re.fullmatch(r"[\w-]+", voice)
        about = synthesizer.about(voice)
        assert about.licence
        assert len(about.people) == 1
        assert about.gender in ("f", "m", None)


def test_the_same_text_in_the_same_voice_has_the_same_bytes_in_every_process_and_order(synthesizer, name):
    said = [(voice, text) for text in SHORT for voice in some(synthesizer)]
    here = [digest_bytes(synthesizer.speak(*one).tobytes()) for one in said]
    command = [sys.executable, "-c", SPEAK, family(name), json.dumps([*said[::-1], said[-1]])]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [*here[::-1], here[-1]]
    assert len(set(here)) == len(set(said))  # no two texts, and no two voices, sound the same


def test_speech_is_as_long_and_loud_as_speech(synthesizer):
    samples = synthesizer.speak(some(synthesizer)[0], TEXTS[0])
    assert samples.dtype == np.float32
    assert samples.ndim == 1
    assert 0.15 < len(samples) / synthesizer.rate_hz / len(TEXTS[0].split()) < 0.7
    assert 0.05 < np.abs(samples).max() <= 1.0
    spectrum = np.abs(np.fft.rfft(samples)) ** 2
    hz = np.fft.rfftfreq(len(samples), 1 / synthesizer.rate_hz)
    assert spectrum[(hz > 80) & (hz < 4000)].sum() > 0.8 * spectrum.sum()  # the rate is the one it is said to be


def test_a_voice_that_is_not_there_is_refused(synthesizer):
    known = synthesizer.voices()[0]
    for voice in ("nobody", f"{known}+{known}", f"{known}+nobody"):
        with pytest.raises(InputError, match="has no voice"):
            synthesizer.about(voice)
        with pytest.raises(InputError, match="has no voice"):
            synthesizer.speak(voice, "hello")


@pytest.mark.parametrize("name", SYNTHESIZERS)
def test_what_is_missing_is_named_with_the_way_to_install_it(name, monkeypatch, tmp_path):
    module = importlib.import_module(SYNTHESIZERS[name])
    if hasattr(module, "find_spec"):
        monkeypatch.setattr(module, "find_spec", lambda package: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match=r"pip install|apt-get install|make voices"):
        load_synthesizer(f"{name}:{tmp_path}" if synthesizer_entry(name).needs_folder else name)


def test_a_synthesizer_is_named_with_its_folder_or_without_as_it_has_one():
    with pytest.raises(InputError, match="espeak has no folder"):
        load_synthesizer("espeak:here")
    with pytest.raises(InputError, match="kokoro needs its folder"):
        load_synthesizer("kokoro")
    with pytest.raises(InputError, match="there is no synthesizer 'sam'; choose from espeak"):
        load_synthesizer("sam")


def test_a_mixture_has_one_name_and_is_of_both_people():
    kokoro = loaded("kokoro")
    assert len(kokoro.voices()) == 28
    mixed = kokoro.about("af_heart+am_michael")
    assert mixed.people == ("kokoro-af_heart", "kokoro-am_michael")
    assert mixed.gender is None
    assert kokoro.about("af_bella+af_heart").gender == "f"
    with pytest.raises(InputError, match="in alphabetical order"):
        kokoro.about("am_michael+af_heart")


@pytest.mark.slow
def test_a_speaker_encoder_tells_a_mixture_of_a_woman_and_a_man_from_both_and_from_their_other_mixtures():
    encoder = find_speaker_encoder(None)
    if isinstance(encoder, str):
        pytest.skip(encoder)
    kokoro = loaded("kokoro")
    heard = {}
    for voice in ("af_bella", "am_michael", "bm_george", "af_bella+am_michael", "af_bella+bm_george"):
        vectors = [encoder.embed(kokoro.speak(voice, text), kokoro.rate_hz) for text in TEXTS]
        heard[voice] = [vector / np.linalg.norm(vector) for vector in vectors]

    def likeness(one, other):
        return np.mean([heard[one][i] @ heard[other][j] for i, j in itertools.permutations(range(len(TEXTS)), 2)])

    for one, other in itertools.combinations(heard, 2):
        assert likeness(one, other) < min(likeness(one, one), likeness(other, other)) - 0.05, (one, other)


def test_hibari_is_the_same_person_as_the_voice_of_kokoro_that_it_copies():
    assert loaded("hibari").about("heart").people == ("kokoro-af_heart",)
