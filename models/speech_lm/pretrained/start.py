"""The model that a shape describes, and the weights that it starts from: a text LLM's, or Whisper's decoder."""

from pathlib import Path

from models.config.header import Header
from models.config.shape import Shape, Vocabulary
from models.speech_lm.model import SpeechLM
from models.speech_lm.pretrained import llm, whisper
from models.speech_lm.whisper.model import WhisperLM


def build_model(shape: Shape, vocabulary: Vocabulary) -> SpeechLM:
    """Return the modules of a shape; their weights are drawn by `initialize`, or loaded."""
    return (WhisperLM if shape.decoder == "whisper" else SpeechLM)(shape, vocabulary)


def read_shape(folder: Path, base: Shape) -> Shape:
    """Return the shape of a pretrained model's folder; what it does not say is taken from `base`.

    Raises:
        ValueError: it is of a family that no model here can start from, or has a part that ours does not.
    """
    read = whisper.read_whisper_shape if whisper.model_type_of(folder) == "whisper" else llm.read_shape
    return read(folder, base)


def load_weights(folder: Path, model: SpeechLM) -> None:
    """Put a pretrained model's weights into an initialized one.

    Raises:
        ValueError: they are not those of the model's shape, or the vocabulary is smaller than the tokenizer's.
    """
    if isinstance(model, WhisperLM):
        whisper.load_whisper_weights(folder, model)
    else:
        llm.load_weights(folder, model)


def export(model: SpeechLM, header: Header, folder: Path, *, with_audio: bool = False) -> None:
    """Write a checkpoint's model as a Hugging Face folder: a text LLM's, or a Whisper's.

    Args:
        model: the speech-LLM.
        header: of its checkpoint.
        folder: where it goes.
        with_audio: of a text LLM, whether ids of audio follow those of text (`llm.export`).

    Raises:
        ValueError: the model cannot be written so.
    """
    if isinstance(model, WhisperLM):
        whisper.export_whisper(model, header, folder)
    else:
        llm.export(model, header, folder, with_audio=with_audio)
