"""Speaker encoders: a recording to a vector whose direction is the voice."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from operators.corpus.sources import resample, resampled_length
from operators.digest import digest_file, merkle_root
from operators.errors import InputError

RATE_HZ = 16_000
Wav = NDArray[np.float32]


@dataclass(frozen=True)
class SpeakerEncoder:
    """Makes vectors of voices."""

    name: str
    digest: str
    """Of its weights."""
    embed: Callable[[Wav, int], Wav]
    """Takes samples (N,) in [-1, 1] and their rate in Hz; returns (D,), zeros where there is no speech."""


def similarity(encoder: SpeakerEncoder, one: Wav, other: Wav, rate_hz: int) -> float:
    """Return the cosine of the embeddings of two waveforms (N,) and (M,); 0 where one has no speech."""
    a, b = (np.asarray(encoder.embed(wav, rate_hz), np.float64) for wav in (one, other))
    size = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(np.clip(a @ b / size, -1.0, 1.0)) if size > 0 else 0.0


def _resemblyzer(device: str) -> SpeakerEncoder:
    """Return Resemblyzer's encoder. Source: Wan et al. 2018, "Generalized end-to-end loss", arXiv:1710.10467."""
    import resemblyzer

    voices = resemblyzer.VoiceEncoder(device, verbose=False)

    def embed(samples: Wav, rate_hz: int) -> Wav:
        wav = _at_rate(samples, rate_hz)
        spoken = resemblyzer.preprocess_wav(wav) if wav.any() else wav[:0]  # level, and no long silences
        if not len(spoken):
            return np.zeros(256, np.float32)
        return np.asarray(voices.embed_utterance(spoken), np.float32)

    weights = Path(resemblyzer.__file__).parent / "pretrained.pt"
    return SpeakerEncoder("resemblyzer", digest_file(weights), embed)


SPEAKER_ENCODERS: Mapping[str, tuple[str, str, Callable[[str], SpeakerEncoder]]] = {
    "resemblyzer": (
        "resemblyzer",
        "pip install webrtcvad-wheels librosa && pip install --no-deps Resemblyzer==0.1.4",
        _resemblyzer,
    )
}
"""Package, how it is installed, and loader (of a torch device) of each encoder, by its name."""


def find_speaker_encoder(name: str | None, device: str = "cpu") -> SpeakerEncoder | str:
    """Return a speaker encoder, or, where none is named and none is installed, what to install.

    Args:
        name: in `SPEAKER_ENCODERS`; or a folder of a model of transformers with x-vectors, such as WavLM's; the first
            that is installed where None.
        device: torch device.

    Raises:
        InputError: the one that is named is unknown or does not load.
    """
    if name is None:
        name = next((one for one, (package, _, _) in SPEAKER_ENCODERS.items() if find_spec(package)), None)
        if name is None:
            ways = "; or ".join(how for _, how, _ in SPEAKER_ENCODERS.values())
            return f"no speaker encoder is installed: {ways}; or name a folder by --speaker-encoder"
    if name in SPEAKER_ENCODERS:
        _, how, load = SPEAKER_ENCODERS[name]
        try:
            return load(device)
        except ImportError as error:
            raise InputError(f"speaker encoder {name} needs a package that is missing ({error}): {how}") from error
    if Path(name).is_dir():
        return _x_vectors(Path(name), device)
    raise InputError(f"speaker encoder {name} is no folder; name one, or {', '.join(SPEAKER_ENCODERS)}")


def _x_vectors(folder: Path, device: str) -> SpeakerEncoder:
    """Return the encoder of a folder of transformers (WavLM, wav2vec 2.0, UniSpeech-SAT and others with x-vectors).

    Source: Snyder et al. 2018, "X-vectors: robust DNN embeddings for speaker recognition", ICASSP, section 2.
    """
    try:
        import torch
        from transformers import AutoConfig, AutoFeatureExtractor, AutoModelForAudioXVector
    except ImportError as error:
        raise InputError("x-vectors need a package: pip install 'hubbub[codecs]'") from error
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise InputError(f"{folder} holds no weights as *.safetensors; convert them, as pickled ones are not loaded")
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        if not any(name.endswith("ForXVector") for name in config.architectures or ()):
            raise InputError(f"{folder} is {config.architectures}, not a model with x-vectors (...ForXVector)")
        model = AutoModelForAudioXVector.from_pretrained(folder, use_safetensors=True, local_files_only=True)
        extractor = AutoFeatureExtractor.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{folder} does not load: {str(error).splitlines()[0]}") from error
    model = model.to(device).eval()
    shortest = RATE_HZ // 2  # the time-delay layers see a third of a second

    def embed(samples: Wav, rate_hz: int) -> Wav:
        wav = _at_rate(samples, rate_hz)
        if not wav.any():
            return np.zeros(config.xvector_output_dim, np.float32)
        wav = np.pad(wav, (0, max(0, shortest - len(wav))))
        values = extractor(wav, sampling_rate=RATE_HZ, return_tensors="pt")["input_values"]
        with torch.inference_mode():
            found: Wav = model(values.to(device)).embeddings[0].float().cpu().numpy()
        return found

    digest = merkle_root((path.name, digest_file(path)) for path in files)
    return SpeakerEncoder(folder.resolve().name, digest, embed)


def _at_rate(samples: Wav, rate_hz: int) -> Wav:
    return resample(samples, rate_hz, RATE_HZ, resampled_length(len(samples), rate_hz, RATE_HZ))
