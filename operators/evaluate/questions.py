"""What a user asks of a recording with several talkers, as the tasks that a checkpoint was trained on word it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from operators.corpus.normalizers import normalize
from operators.documents.scene import Asked
from operators.documents.tasks import TASKS, asked_of
from operators.documents.tasks.instructed.instructed import Instructed
from operators.errors import InputError


@dataclass(frozen=True)
class _Kind:
    """A kind of question that takes a value."""

    example: str
    task: str
    """The task that asks it in words."""
    short: str
    """How asr_target asks it."""
    is_value: Callable[[str], bool] = bool


_KINDS: Mapping[str, _Kind] = {
    "gender": _Kind("gender=female", "asr_gender", "gender {}"),
    "order": _Kind("order=2", "asr_order", "speaker {}", lambda value: value.isdecimal() and int(value) > 0),
    "keyword": _Kind("keyword=budget", "asr_keyword", "says {}", lambda value: len(normalize(value).split()) == 1),
    "language": _Kind("language=de", "asr_language", "language {}"),
}

FORMS = ("all", "voice=FILE", *(kind.example for kind in _KINDS.values()))
"""What can be asked: the six instructions of Meng et al. 2024 (MT-LLM), arXiv:2409.08596, section 2.3."""


def question_of(text: str, trained: Sequence[str]) -> tuple[str, Asked | None]:
    """Return the task that asks a question of a model, and what is asked; None where all talkers are transcribed.

    The sample of a voice is to be added by who has the codec.

    Args:
        text: one of `FORMS`, with another value.
        trained: tasks that the model was trained on.

    Raises:
        InputError: the text is none of them, or the model was trained on no task that asks it.

    >>> question_of("gender=f", ["asr", "asr_gender"])
    ('asr_gender', Asked(text='Transcribe only the female speakers.', voice=None))
    >>> question_of("order=2", ["asr_target"])
    ('asr_target', Asked(text='speaker 2', voice=None))
    """
    name, _, value = (part.strip() for part in text.partition("="))
    if text.strip() == "all":
        task = asked_of(trained)
        return (task, None) if task in trained or "asr_target" not in trained else ("asr_target", Asked("all"))
    if name == "voice" and value:
        return _trained("asr_target", (), trained, text), Asked("voice")
    kind = _KINDS.get(name)
    if kind is None or not kind.is_value(value):
        raise InputError(f"--ask {text!r} is none of {', '.join(FORMS)}")
    value = normalize(value) if name == "keyword" else value
    task = _trained(kind.task, ("asr_target",), trained, text)
    in_words = TASKS[task]
    return task, Asked(in_words.worded(value) if isinstance(in_words, Instructed) else kind.short.format(value))


def _trained(task: str, others: Sequence[str], trained: Sequence[str], text: str) -> str:
    """Return the first of some tasks that a model was trained on; the first of all where it does not say.

    Raises:
        InputError: it was trained on none of them.
    """
    able = [one for one in (task, *others) if one in trained or not trained]
    if not able:
        raise InputError(
            f"--ask {text!r} needs a checkpoint that was trained on {' or '.join((task, *others))}; this one was on "
            f"{', '.join(trained)}"
        )
    return able[0]
