"""asr_order: transcribe the talker who speaks as number n."""

from operators.documents.scene import Scene
from operators.documents.task import Example
from operators.documents.tasks.instructed.instructed import Instructed, Question, heard

_ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")


def ordinal(number: int) -> str:
    """Return a number as an ordinal.

    >>> [ordinal(number) for number in (1, 10, 11, 22)]
    ['first', 'tenth', '11th', '22nd']
    """
    if number <= len(_ORDINALS):
        return _ORDINALS[number - 1]
    ending = {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th") if number % 100 not in (11, 12, 13) else "th"
    return f"{number}{ending}"


class AsrOrder(Instructed):
    """The turns of the talker who is heard as number n in the window's audio, counted by first turns."""

    name = "asr_order"
    example = Example()
    wordings = (
        "Transcribe only the {} person to speak.",
        "What does the {} speaker say?",
        "Write down everything that the {} talker says, in order of first words.",
        "Of all talkers, give me only the {} one who is heard.",
    )

    def worded(self, value: str, wording: int = 0) -> str:
        """Return the text of an instruction; a number becomes an ordinal."""
        return super().worded(ordinal(int(value)) if value.isdecimal() and int(value) else value, wording)

    def answered(self, scene: Scene) -> list[Question]:
        """Return a question for each talker with words."""
        found = []
        for number, talker in enumerate(dict.fromkeys(turn["speaker"] for turn in heard(scene)), 1):
            turns = [t for t in scene.window.turns if t["speaker"] == talker and t["text_normalized"]]
            found += [Question(str(number), turns, f"order {number}")] if turns else []
        return found

    def unanswered(self, scene: Scene) -> list[Question]:
        """Return questions for one and for two talkers more than there are."""
        number = len({turn["speaker"] for turn in heard(scene)})
        return [Question(str(number + more), (), "order, nobody") for more in (1, 2)]
