"""A Whisper model in a local Hugging Face folder, as a recognizer of generated recordings.

Source: Radford et al. 2022, "Robust speech recognition via large-scale weak supervision", arXiv:2212.04356, section 2.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from operators.corpus.sources import resample, resampled_length
from operators.digest import digest_file, merkle_root
from operators.errors import InputError
from operators.evaluate.cuts import pieces
from operators.tokenize.encode import levels

RATE_HZ = 16_000
_HOP_SAMPLES = 320
_WINDOW_FRAMES = 1500
"""Thirty seconds: what the encoder takes."""
_QUIET_FRAMES = 10
_MOST_TOKENS = 224
_MULTILINGUAL_VOCABULARY = 51_865
"""Least number of tokens of a model that is told the language; smaller ones know English only."""


@dataclass(frozen=True)
class Recognizer:
    """Writes what is said in a recording."""

    name: str
    digest: str
    """Of its weights."""
    language: str
    recognize: Callable[[NDArray[np.float32], int], str]
    """Takes samples (N,) in [-1, 1] and their rate in Hz."""


def weights_digest(folder: Path) -> str:
    """Return the digest of the safetensors files in a folder.

    Raises:
        InputError: it has none.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise InputError(f"{folder} holds no weights as *.safetensors; convert them, as pickled ones are not loaded")
    return merkle_root((path.name, digest_file(path)) for path in files)


def load_whisper(folder: Path, language: str = "en", device: str = "cpu") -> Recognizer:
    """Return the recognizer of a folder that transformers' `save_pretrained` wrote, with its tokenizer.

    Args:
        folder: config.json, *.safetensors and tokenizer.json.
        language: code of the spoken language.
        device: torch device.

    Raises:
        InputError: a package or the folder is missing, it is no Whisper, or it does not know the language.
    """
    try:
        from transformers import AutoConfig, AutoTokenizer, WhisperFeatureExtractor, WhisperForConditionalGeneration
    except ImportError as error:
        raise InputError("a recognizer needs a package: pip install 'hubbub[codecs]'") from error
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}; give a Whisper model as save_pretrained writes it")
    digest = weights_digest(folder)
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        if config.model_type != "whisper":
            raise InputError(f"{folder} is a {config.model_type} model, no Whisper")
        model = WhisperForConditionalGeneration.from_pretrained(folder, use_safetensors=True, local_files_only=True)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{folder} does not load: {str(error).splitlines()[0]}") from error
    known = tokenizer.get_vocab()
    is_multilingual = config.vocab_size >= _MULTILINGUAL_VOCABULARY
    if f"<|{language}|>" not in known or (language != "en" and not is_multilingual):
        raise InputError(f"{folder} does not know the language {language}" + ("" if is_multilingual else "; only en"))
    told = (f"<|{language}|>", "<|transcribe|>") if is_multilingual else ()
    prompt = [known[token] for token in ("<|startoftranscript|>", *told, "<|notimestamps|>")]
    extractor = WhisperFeatureExtractor(feature_size=config.num_mel_bins)
    model = model.to(device).eval()

    def recognize(samples: NDArray[np.float32], rate_hz: int) -> str:
        wav = resample(samples, rate_hz, RATE_HZ, resampled_length(len(samples), rate_hz, RATE_HZ))
        heard = [
            tokenizer.decode(_written(model, extractor, window, prompt, known["<|endoftext|>"]))
            for window in windows_of(wav)
        ]
        return " ".join(text.strip() for text in heard)

    return Recognizer(folder.name, digest, language, recognize)


def windows_of(wav: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """Return the windows of a waveform (N,) at 16 kHz, cut where it is quiet, without those of digital silence.

    >>> [len(window) for window in windows_of(np.ones(16_000 * 45, np.float32))]
    [480000, 240000]
    """
    num_frames = -(-len(wav) // _HOP_SAMPLES)
    pcm = np.clip(np.rint(wav * 32768), -32768, 32767).astype(np.int16)
    loudness = levels(pcm, _HOP_SAMPLES, num_frames)
    cut = pieces(num_frames, _WINDOW_FRAMES, levels=loudness, quiet_frames=_QUIET_FRAMES)
    windows = [wav[piece.start * _HOP_SAMPLES : piece.end * _HOP_SAMPLES] for piece in cut]
    return [window for window in windows if window.any()]


def _written(model: Any, extractor: Any, window: NDArray[np.float32], prompt: list[int], end: int) -> list[int]:
    """Return the tokens that a model writes of a window, the most likely one at each step."""
    import torch
    from transformers.generation.utils import GenerationMixin

    features = extractor(window, sampling_rate=RATE_HZ, return_tensors="pt")["input_features"]
    # GenerationMixin's own loop: Whisper's wants a generation_config with language tables, which few folders have.
    with torch.inference_mode():
        found = GenerationMixin.generate(
            model,
            features.to(model.device),
            decoder_input_ids=torch.tensor([prompt], device=model.device),
            max_new_tokens=_MOST_TOKENS,
            do_sample=False,
            num_beams=1,
            eos_token_id=end,
            pad_token_id=end,
        )
    tokens: list[int] = found[0, len(prompt) :].tolist()
    return [token for token in tokens if token < end]
