"""asr_language: transcribe what is said in one language."""

from operators.documents.scene import Scene
from operators.documents.task import Example
from operators.documents.tasks.instructed.instructed import Instructed, Question, heard, told

_NAMES = {
    "ar": "Arabic",
    "bn": "Bengali",
    "cs": "Czech",
    "da": "Danish",
    "de": "German",
    "el": "Greek",
    "en": "English",
    "es": "Spanish",
    "fa": "Persian",
    "fi": "Finnish",
    "fr": "French",
    "he": "Hebrew",
    "hi": "Hindi",
    "hu": "Hungarian",
    "id": "Indonesian",
    "it": "Italian",
    "ja": "Japanese",
    "ko": "Korean",
    "nl": "Dutch",
    "no": "Norwegian",
    "pl": "Polish",
    "pt": "Portuguese",
    "ro": "Romanian",
    "ru": "Russian",
    "sv": "Swedish",
    "th": "Thai",
    "tr": "Turkish",
    "uk": "Ukrainian",
    "vi": "Vietnamese",
    "zh": "Chinese",
}


def language_named(value: str) -> str:
    """Return a corpus's or a user's word for a language as instructions say it.

    >>> [language_named(value) for value in ("en", "de-AT", "Yoruba")]
    ['English', 'German', 'Yoruba']
    """
    return _NAMES.get(value.replace("_", "-").split("-")[0].casefold(), value)


class AsrLanguage(Instructed):
    """The turns in one language."""

    name = "asr_language"
    example = Example()
    needs_told = "language"
    uses_words = True
    wordings = (
        "Transcribe only what is said in {}.",
        "What do the speakers of {} say?",
        "Write down every {} sentence, and nothing in any other language.",
        "Leave out everything that is not in {}.",
    )

    def worded(self, value: str, wording: int = 0) -> str:
        """Return the text of an instruction."""
        return super().worded(language_named(value), wording)

    def answered(self, scene: Scene) -> list[Question]:
        """Return a question for each language that is spoken."""
        spoken = {language_named(told(self, turn, "language")) for turn in heard(scene)}
        written = [turn for turn in scene.window.turns if turn["text_normalized"]]
        own = {name: [turn for turn in written if language_named(turn["language"]) == name] for name in sorted(spoken)}
        return [Question(name, turns, f"language {name}") for name, turns in own.items() if turns]

    def unanswered(self, scene: Scene) -> list[Question]:
        """Return a question for each language that others in the corpus speak; for any, where all speak one."""
        spoken = {language_named(told(self, turn, "language")) for turn in heard(scene)}
        others = {language_named(name) for name in scene.words.languages} if scene.words is not None else set()
        pool = sorted(others - spoken) or sorted(set(_NAMES.values()) - spoken)
        return [Question(name, (), "language, nobody") for name in pool]
