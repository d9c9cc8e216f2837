"""k-means units: the code of a frame is the index of the nearest of k centers, which were fitted to the user's corpus.

Sources: Lakhotia et al. 2021, "Generative Spoken Language Modeling from Raw Audio", arXiv:2102.01192, section 3.1;
Chang et al. 2024, "Exploring Speech Recognition, Translation, and Understanding with Discrete Speech Units".
"""

import hashlib
import json
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from models.codecs.codec import CodecEntry, CodecSpec
from models.codecs.dmel import DMel

Features = NDArray[np.float32]


class MelFeatures:
    """dMel's log-mel spectrogram (80 channels, 40 frames/s), or 20 cepstral coefficients of it."""

    def __init__(self, kind: str) -> None:
        self.kind, self._mel = kind, DMel()
        self.sample_rate_hz, self.hop_samples = DMel.SAMPLE_RATE_HZ, DMel.HOP_SAMPLES
        self.digest = self._mel.spec.weights_digest

    def __call__(self, wav: NDArray[np.float32]) -> Features:
        """Return features (T, D) of a waveform (N,) in [-1, 1] at 16 kHz."""
        levels = self._mel.log_mel(wav)
        if self.kind == "mel":
            return levels
        return np.ascontiguousarray(scipy.fft.dct(levels, axis=1, norm="ortho")[:, :20], dtype=np.float32)


class EncoderFeatures:
    """Hidden states of one layer of a transformers speech encoder (HuBERT, WavLM, ...) from a folder or a hub id."""

    def __init__(self, weights: str, layer: int) -> None:
        """Load the encoder.

        Raises:
            ValueError: the package or the weights are missing, or the encoder has no such layer.
        """
        try:
            from transformers import AutoConfig, AutoModel
        except ImportError as error:
            raise ValueError("features of an encoder need a package: pip install 'hubbub[codecs]'") from error
        local = Path(weights).is_dir()
        try:
            config = AutoConfig.from_pretrained(weights, local_files_only=local)
            self.model: Any = AutoModel.from_pretrained(weights, use_safetensors=True, local_files_only=local).eval()
        except (OSError, ValueError) as error:
            raise ValueError(f"encoder {weights} does not load: {str(error).splitlines()[0]}") from error
        if not 0 <= layer <= config.num_hidden_layers:
            raise ValueError(f"encoder {weights} has layers 0 to {config.num_hidden_layers}; not {layer}")
        self.layer, self.sample_rate_hz = layer, 16_000
        self.hop_samples = int(np.prod(config.conv_stride))
        state = hashlib.blake2b(str(layer).encode(), digest_size=32)
        for name, tensor in sorted(self.model.state_dict().items()):
            state.update(name.encode() + tensor.contiguous().numpy().tobytes())
        self.digest = state.hexdigest()

    def __call__(self, wav: NDArray[np.float32]) -> Features:
        """Return features (ceil(N / hop), D) of a waveform (N,) in [-1, 1] at 16 kHz, padded to one frame per hop."""
        import torch

        frames = -(-len(wav) // self.hop_samples)
        reach = 400 - self.hop_samples  # receptive field of these encoders' convolutions: 400 samples
        padded = np.pad(wav, (reach // 2, frames * self.hop_samples - len(wav) + reach - reach // 2))
        normal = (padded - padded.mean()) / np.sqrt(padded.var() + 1e-7)
        with torch.no_grad():
            states = self.model(
                torch.from_numpy(normal.astype(np.float32))[None], output_hidden_states=True
            ).hidden_states[self.layer]
        return np.asarray(states[0, :frames].numpy(), dtype=np.float32)


def features_of(description: dict[str, Any]) -> MelFeatures | EncoderFeatures:
    """Return the features that units.json describes.

    Raises:
        ValueError: the kind is unknown, or the encoder cannot be loaded.
    """
    if description["kind"] in ("mel", "mfcc"):
        return MelFeatures(description["kind"])
    if description["kind"] == "encoder":
        return EncoderFeatures(description["weights"], int(description["layer"]))
    raise ValueError(f"unknown features {description['kind']!r}; choose from mel, mfcc, encoder")


def fit_units(features: Iterable[Features], num_units: int, seed: int) -> Features:
    """Return `num_units` centers (K, D) of feature matrices (T, D), fitted by mini-batch k-means.

    Raises:
        ValueError: there are fewer frames than units.

    Source: Sculley 2010, "Web-scale k-means clustering" (scikit-learn's MiniBatchKMeans).
    """
    from sklearn.cluster import MiniBatchKMeans

    rows = np.concatenate(list(features))
    if len(rows) < num_units:
        raise ValueError(f"{len(rows)} frames are too few for {num_units} units")
    fitted = MiniBatchKMeans(num_units, random_state=seed, batch_size=4096, n_init=3).fit(rows)
    return np.asarray(fitted.cluster_centers_, dtype=np.float32)


def save_units(folder: Path, centers: Features, description: dict[str, Any]) -> None:
    """Write centers (K, D) and the description of their features to units.safetensors and units.json."""
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file({"centers": np.ascontiguousarray(centers)}, str(folder / "units.safetensors"))
    (folder / "units.json").write_text(json.dumps(description, indent=1, sort_keys=True) + "\n")


class Units:
    """Encodes a waveform as the indices of its frames' nearest centers."""

    def __init__(self, weights: str) -> None:
        """Read the folder that `hubbub data units` wrote.

        Raises:
            ValueError: a file is missing, or the features cannot be loaded.
        """
        from safetensors.numpy import load_file

        folder = Path(weights)
        missing = [name for name in ("units.json", "units.safetensors") if not (folder / name).is_file()]
        if missing:
            raise ValueError(f"codec units: {folder} lacks {', '.join(missing)}; hubbub data units writes them")
        self.description = json.loads((folder / "units.json").read_text())
        self.centers: Features = load_file(str(folder / "units.safetensors"))["centers"]
        self.features = features_of(self.description)
        self._halves = (self.centers.astype(np.float64) ** 2).sum(1) / 2

    @cached_property
    def spec(self) -> CodecSpec:
        """The codec's fixed properties."""
        state = hashlib.blake2b(self.centers.tobytes() + self.features.digest.encode(), digest_size=32)
        return CodecSpec(
            name="units",
            sample_rate_hz=self.features.sample_rate_hz,
            hop_samples=self.features.hop_samples,
            num_codebooks=1,
            codebook_size=len(self.centers),
            bits=8 if len(self.centers) <= 256 else 16,
            ordinal=False,
            causal=False,
            licence=str(self.description.get("licence", "that of the corpus they were found in")),
            weights_digest=state.hexdigest(),
        )

    def num_frames(self, num_samples: int) -> int:
        """Return ceil(num_samples / hop)."""
        return -(-num_samples // self.features.hop_samples)

    def encode(self, wav: NDArray[np.float32]) -> NDArray[np.uint16]:
        """Return codes (1, T) of a waveform (N,) in [-1, 1].

        Raises:
            ValueError: the waveform is not one-dimensional, or holds NaN or infinity.
        """
        if wav.ndim != 1 or not np.isfinite(wav).all():
            raise ValueError("units takes one channel (N,) without NaN or infinity")
        if not len(wav):
            return np.zeros((1, 0), np.uint16)
        # The nearest center x maximizes x . c - |c|^2 / 2.
        closeness = self.features(wav).astype(np.float64) @ self.centers.astype(np.float64).T - self._halves
        return np.asarray(closeness.argmax(1).astype(np.uint16)[None])

    def decode(self, codes: NDArray[np.uint16], num_samples: int) -> NDArray[np.float32]:
        """Return a waveform (num_samples,) at 16 kHz of codes (1, T) of mel units, by Griffin-Lim from their centers.

        Raises:
            ValueError: the units' features are not mel.
        """
        if self.description["kind"] != "mel":
            raise ValueError(f"units of {self.description['kind']} features cannot be decoded to audio; use mel units")
        return DMel().from_log_mel(self.centers[codes[0].astype(np.int64)], num_samples)


def _example(folder: Path) -> str:
    centers = np.random.default_rng(0).normal(-2.0, 1.0, (12, DMel.NUM_CHANNELS)).astype(np.float32)
    save_units(folder, centers, {"kind": "mel"})
    return str(folder)


CODEC = CodecEntry(
    load=lambda weights, _, __: Units(weights),
    about="k-means of mel, MFCC or an encoder's states, 40 or 50 frames/s",
    example=_example,
)
