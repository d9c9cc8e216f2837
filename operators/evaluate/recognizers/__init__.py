"""Recognizers by name: what a system that only hears words makes of the same sound."""

from pathlib import Path

from operators.evaluate.recognizers.recognizer import Recognizer
from operators.evaluate.recognizers.sphinx import PocketSphinxRecognizer
from operators.evaluate.recognizers.whisper import WhisperRecognizer

__all__ = ["Recognizer", "load_recognizer"]


def load_recognizer(name: str, device: str = "cpu") -> Recognizer:
    """Return a recognizer: `pocketsphinx`, or a Whisper by its folder.

    Raises:
        InputError: a package is missing, or the name is no folder of a Whisper.
    """
    if name == PocketSphinxRecognizer.name:
        return PocketSphinxRecognizer()
    return WhisperRecognizer(Path(name), device)
