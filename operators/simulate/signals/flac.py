"""Rendered conversations as FLAC."""

import io

import numpy as np
import pyarrow as pa
import soundfile
from numpy.typing import NDArray

from operators.schema import AUDIO_FLAC, table


def _flac(samples: NDArray[np.int16], rate_hz: int) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate_hz, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def to_flac(audio: pa.Table) -> pa.Table:
    """Return mixtures and stems encoded as FLAC (AUDIO to AUDIO_FLAC), one conversation per row."""
    rows = []
    for i in range(audio.num_rows):
        rate_hz = audio["sample_rate_hz"][i].as_py()
        samples = audio["samples"][i].values.to_numpy()
        far = audio["far_samples"][i].values.to_numpy()
        channels = far.reshape(len(samples), -1) if len(far) else samples[:, None]
        rows.append(
            {
                "conversation_id": audio["conversation_id"][i].as_py(),
                "sample_rate_hz": rate_hz,
                "num_samples": len(samples),
                "num_channels": channels.shape[1],
                "flac": _flac(channels, rate_hz),
                "stems": [
                    {
                        "speaker": stem["speaker"].as_py(),
                        "kind": stem["kind"].as_py(),
                        "flac": _flac(stem["samples"].values.to_numpy(), rate_hz),
                    }
                    for stem in audio["stems"][i]
                ],
            }
        )
    return table(rows, AUDIO_FLAC)
