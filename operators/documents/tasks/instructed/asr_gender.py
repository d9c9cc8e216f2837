"""asr_gender: transcribe the talkers of one gender."""

from operators.documents.scene import Scene
from operators.documents.task import Example
from operators.documents.tasks.instructed.instructed import Instructed, Question, heard, told

FEMALE, MALE = "female", "male"

_NAMES = {
    **dict.fromkeys(("f", "female", "woman", "female_feminine"), FEMALE),
    **dict.fromkeys(("m", "male", "man", "male_masculine"), MALE),
}


def gender_named(value: str) -> str:
    """Return a corpus's or a user's word for a gender as instructions say it.

    >>> [gender_named(value) for value in ("F", "male_masculine", "non-binary")]
    ['female', 'male', 'non-binary']
    """
    return _NAMES.get(value.casefold(), value.casefold())


class AsrGender(Instructed):
    """The turns of all female, or of all male, talkers."""

    name = "asr_gender"
    example = Example()
    needs_told = "gender"
    wordings = (
        "Transcribe only the {} speakers.",
        "What do the {} speakers say?",
        "Write down the words of every {} voice, and of nobody else.",
        "Leave out everyone who is not {}.",
    )

    def worded(self, value: str, wording: int = 0) -> str:
        """Return the text of an instruction."""
        return super().worded(gender_named(value), wording)

    def answered(self, scene: Scene) -> list[Question]:
        """Return a question for each gender that speaks."""
        spoken = {gender_named(told(self, turn, "gender")) for turn in heard(scene)}
        written = [turn for turn in scene.window.turns if turn["text_normalized"]]
        own = {name: [turn for turn in written if gender_named(turn["gender"]) == name] for name in sorted(spoken)}
        return [Question(name, turns, f"gender {name}") for name, turns in own.items() if turns]

    def unanswered(self, scene: Scene) -> list[Question]:
        """Return a question for each of two genders that nobody in the window has."""
        here = {gender_named(told(self, turn, "gender")) for turn in heard(scene)}
        return [Question(gender, (), "gender, nobody") for gender in (FEMALE, MALE) if gender not in here]
