"""Audio to codes: the costly step, done once; layouts and tasks are chosen later, without encoding again."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from models.codec import Codec, CodecSpec, load_codec, pack_codes
from operators.annotations import to_frames
from operators.errors import InputError
from operators.schema import AUDIO, CODES, table


@dataclass(frozen=True, kw_only=True)
class Encode:
    """Encodes each mixture alone, so that no code depends on what else is in the batch."""

    codec: Literal["dmel", "lyra"] = "dmel"
    """Adapter: dmel needs no weights; lyra needs their folder."""
    weights: str | None = None
    """Folder of the codec's weights."""
    num_codebooks: int | None = None
    """Codebooks to use of a codec that has a choice; its default where None."""
    stems: bool = False
    """Whether the stems that rendering makes are encoded too: what speaker extraction is trained towards."""

    reads: ClassVar[pa.Schema] = AUDIO
    writes: ClassVar[pa.Schema] = CODES
    version: ClassVar[str] = "2"

    @cached_property
    def loaded(self) -> Codec:
        """The codec, loaded when first used.

        Raises:
            InputError: weights or a package are missing.
        """
        try:
            return load_codec(self.codec, self.weights, self.num_codebooks)
        except ValueError as error:
            raise InputError(str(error)) from error

    @property
    def spec(self) -> CodecSpec:
        """The codec's fixed properties."""
        return self.loaded.spec

    def __getstate__(self) -> dict[str, Any]:
        """Leave the loaded weights behind: a worker loads its own."""
        return {key: value for key, value in self.__dict__.items() if key != "loaded"}

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Return codes and turns in frames."""
        rows = []
        for i, row in enumerate(batch.drop_columns(["samples", "far_samples", "stems"]).to_pylist()):
            codes = self._encode(batch["samples"][i])
            rows.append(
                {
                    "conversation_id": row["conversation_id"],
                    "origin": row["origin"],
                    "split": row["split"],
                    "num_samples": row["num_samples"],
                    "num_frames": codes.shape[1],
                    "codes": pack_codes(codes, self.spec.bits),
                    "speakers": row["speakers"],
                    "turns": [self._turn(turn) for turn in row["turns"]],
                    "stems": [
                        {
                            "speaker": stem["speaker"].as_py(),
                            "kind": stem["kind"].as_py(),
                            "codes": pack_codes(self._encode(stem["samples"]), self.spec.bits),
                        }
                        for stem in (batch["stems"][i] if self.stems else ())
                    ],
                }
            )
        return table(rows, CODES)

    def _encode(self, samples: pa.LargeListScalar) -> NDArray[np.uint16]:
        return self.loaded.encode(samples.values.to_numpy().astype(np.float32) / np.float32(32768))

    def _turn(self, turn: dict[str, Any]) -> dict[str, Any]:
        hop = self.spec.hop_samples
        start_frame, num_frames = to_frames(turn["start_sample"], turn["num_samples"], hop)
        words = [(word["word"], *to_frames(word["start_sample"], word["num_samples"], hop)) for word in turn["words"]]
        return {
            "utterance_id": turn["utterance_id"],
            "speaker": turn["speaker"],
            "start_frame": start_frame,
            "num_frames": num_frames,
            "text": turn["text"],
            "text_normalized": turn["text_normalized"],
            "gender": turn["gender"],
            "language": turn["language"],
            "words": [{"word": w, "start_frame": s, "num_frames": n} for w, s, n in words],
        }
