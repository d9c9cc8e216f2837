"""asr_target: transcribe only what an instruction asks for."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from models.sequence.tokenizer import ByteTokenizer
from operators.documents.document import Document
from operators.documents.scene import Asked, Scene, by_start
from operators.documents.serialization import arrival
from operators.documents.split_turns import Turn
from operators.documents.task import Example, Task
from operators.documents.transcription import prompt_codes


@dataclass(frozen=True)
class Instruction:
    """An instruction that a window can answer."""

    text: str
    """Its first word is its kind: all, speaker, voice, gender, language, says."""
    turns: Sequence[Turn]
    """The answer."""
    voice: str | None = None
    """Speaker whose voice sample is part of the prompt."""

    @property
    def kind(self) -> str:
        """The first word of the text."""
        return self.text.split()[0]


def instructions(scene: Scene) -> list[Instruction]:
    """Return all instructions that a window can answer.

    The six kinds of Meng et al. 2024, "Large language model can transcribe speech in multi-talker scenarios with
    versatile instructions" (MT-LLM), arXiv:2409.08596, section 2.3.
    """
    turns = by_start(scene.window.turns, scene.speakers)
    speakers = [speaker for speaker in scene.arrivals if any(t["speaker"] == speaker for t in turns)]
    turns_of = {speaker: [t for t in turns if t["speaker"] == speaker] for speaker in speakers}
    found = [Instruction("all", turns)]
    for speaker in speakers:
        found.append(Instruction(f"speaker {scene.arrivals.index(speaker) + 1}", turns_of[speaker]))
        if scene.voice(speaker) is not None:
            found.append(Instruction("voice", turns_of[speaker], speaker))
    for name in ("gender", "language"):
        values = sorted({t[name] for t in turns if t[name]})
        if len(values) > 1 and all(t[name] for t in turns):
            found += [Instruction(f"{name} {value}", [t for t in turns if t[name] == value]) for value in values]
    vocabulary = {s: {w for t in turns_of[s] for w in t["text_normalized"].split()} for s in speakers}
    for speaker in speakers:
        others = {word for other in speakers if other != speaker for word in vocabulary[other]}
        own_words = sorted(word for word in vocabulary[speaker] - others if len(word) > 3)
        found += [Instruction(f"says {word}", turns_of[speaker]) for word in own_words[:1]]
    return found


class AsrTarget(Task):
    """The turns that an instruction asks for: by order, voice, gender, language or a word; or all."""

    name = "asr_target"
    token = ByteTokenizer.ASR_TARGET
    example = Example()
    judged_by = "speakers"
    takes_voices = True

    def prompt(self, scene: Scene) -> Document:
        """Return the prompt of what a user asks."""
        assert scene.asked is not None
        return self._prompt(scene, scene.asked)

    def _prompt(self, scene: Scene, asked: Asked) -> Document:
        document = Document(scene.layout, scene.codec)
        document.add_text([self.token, scene.tokenizer.INSTRUCTION, *scene.encode(asked.text)])
        if asked.voice is not None:
            document.add_text([scene.tokenizer.ENROL])
            document.add_audio(asked.voice)
        document.add_text([scene.tokenizer.AUDIO])
        document.add_audio(prompt_codes(scene))
        document.add_text([scene.tokenizer.TEXT])
        return document

    def documents(self, scene: Scene) -> Iterator[Document]:
        """Yield a document with one instruction: its kind is drawn first, then one of that kind."""
        candidates = instructions(scene)
        draw = scene.draw("instruction")
        kinds = sorted({one.kind for one in candidates})
        kind = kinds[int(draw.integers(len(kinds)))]
        candidates = [one for one in candidates if one.kind == kind]
        chosen = candidates[int(draw.integers(len(candidates)))]
        voice = None if chosen.voice is None else scene.voice(chosen.voice)
        document = self._prompt(scene, Asked(chosen.text, voice))
        document.asked = {"instruction": chosen.kind}
        document.add_text([*arrival(scene, chosen.turns), scene.tokenizer.END], weight=1.0)
        yield document
