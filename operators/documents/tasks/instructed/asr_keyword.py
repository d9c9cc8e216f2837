"""asr_keyword: transcribe the talkers who say a word."""

from operators.documents.hotwords import WordCounts, hotwords_in
from operators.documents.scene import Scene
from operators.documents.task import Example
from operators.documents.tasks.instructed.instructed import Instructed, Question, heard


class AsrKeyword(Instructed):
    """All turns of everybody who says a word in the window: one that only some of the talkers say, where there is one.

    Words are those that can be hotwords: how long or common a word is does not tell whether it is said.
    """

    name = "asr_keyword"
    example = Example()
    uses_words = True
    wordings = (
        'Transcribe only the speakers who say "{}".',
        'Who says "{}"? Write down all of their words.',
        'Give me everything that is said by whoever mentions "{}".',
        'Leave out everyone who does not use the word "{}".',
    )

    def answered(self, scene: Scene) -> list[Question]:
        """Return a question for each word that some, but not all, talkers say; for each word where there is none."""
        said_by: dict[str, set[str]] = {}
        turns = heard(scene)
        for turn in turns:
            for word in hotwords_in([turn]):
                said_by.setdefault(word, set()).add(turn["speaker"])
        number = len({turn["speaker"] for turn in turns})
        telling = [word for word, talkers in said_by.items() if len(talkers) < number]
        found = []
        for word in sorted(telling or said_by):
            own = [t for t in scene.window.turns if t["speaker"] in said_by[word] and t["text_normalized"]]
            found += [Question(word, own, "keyword")] if own else []
        return found

    def unanswered(self, scene: Scene) -> list[Question]:
        """Return a question for a word of other conversations; none where somebody's words are not known."""
        turns = heard(scene)
        if not all(turn["text_normalized"] for turn in turns):
            return []
        words = scene.words or WordCounts.of([scene.row["turns"]])
        drawn = words.distractors(1, hotwords_in(turns), scene.draw("keyword"))
        return [Question(word, (), "keyword, nobody") for word in drawn]
