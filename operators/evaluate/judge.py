"""cpWER of a few conversations while a model is trained on others."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from operators.documents.compose import codec_of
from operators.evaluate import segments
from operators.evaluate.transcribe import Transcribe
from operators.rng import hash64
from operators.scoring.result import Conditions
from operators.scoring.score import measure

if TYPE_CHECKING:
    from models.speech_lm.model import SpeechLM


def chosen(conversation_ids: Sequence[str], number: int) -> list[str]:
    """Return the ids of so many conversations, the same ones whatever their order."""
    return sorted(conversation_ids, key=hash64)[:number]


@dataclass(frozen=True, kw_only=True)
class Judge:
    """Transcribes and scores conversations (rows of CODES) with the weights that a model has when it is asked."""

    transcribe: Transcribe
    """How; its checkpoint gives header and tokenizer, the weights are the model's."""
    codes: pa.Table
    normalizer: str = "basic"

    def __call__(self, model: "SpeechLM") -> tuple[float, float]:
        """Return the errors of cpWER, and the words of the reference that they are divided by."""
        if not self.codes.num_rows:
            return 0.0, 0.0
        operator = self.transcribe.with_model(model)
        written = operator(self.codes)
        rate_hz = codec_of(self.codes.schema).frame_rate_hz
        windows = None if operator.join else segments.windows_of(written)
        reference = segments.reference_segments(self.codes, rate_hz, windows)
        hypothesis = segments.hypothesis_segments(written, rate_hz, is_timed=False, apart=windows is not None)
        conditions = Conditions(normalizer=self.normalizer, measures=("cpwer",))
        found = measure(reference, hypothesis, conditions).counts["cpwer"]
        return float(sum(one.errors for one in found)), float(sum(one.base for one in found))
