"""Tasks: each a template of prompt and target on the token grid, made from a window's truth.

`operators.schema` spells out the grid, and the table of what stands where in each task's document.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from models.sequence.documents import TEXT
from models.sequence.tokenizer import ByteTokenizer
from operators.corpus.annotations import virtual_channels
from operators.documents.document import Document, Scene, Turn, distinct
from operators.errors import UnusableRowError

# ---------------------------------------------------------------------------------------- writing down what is said


def by_start(turns: Sequence[Turn], speakers: Sequence[str]) -> list[Turn]:
    """Return turns that have text, by start; ties by arrival of their speakers."""
    place = {speaker: number for number, speaker in enumerate(speakers)}
    return sorted((t for t in turns if t["text_normalized"]), key=lambda t: (t["start_frame"], place[t["speaker"]]))


def arrival(scene: Scene, turns: Sequence[Turn]) -> list[int]:
    """Return turns by start, each behind its speaker's arrival-order tag.

    Source: Kanda et al. 2020, arXiv:2003.12687 (serialized output); Park et al. 2024, arXiv:2409.06656 (arrival order).
    """
    return [i for turn in by_start(turns, scene.speakers) for i in (scene.tag(turn["speaker"]), *scene.words_of(turn))]


def fifo(scene: Scene, turns: Sequence[Turn]) -> list[int]:
    """Return turns by start, `<sc>` between. Source: Kanda et al. 2020, arXiv:2003.12687, section 3.1."""
    tokens: list[int] = []
    for number, turn in enumerate(by_start(turns, scene.speakers)):
        tokens += [scene.tokenizer.CHANGE] * bool(number) + scene.words_of(turn)
    return tokens


def timed(scene: Scene, turns: Sequence[Turn]) -> list[int]:
    """Return turns as `[start][S1]text[end]`, in seconds from the window's start.

    Source: MOSS Transcribe-Diarize, arXiv:2601.01554.
    """
    rate, first = scene.codec.frame_rate_hz, scene.window.start_frame
    tokens: list[int] = []
    for turn in by_start(turns, scene.speakers):
        start_s, end_s = ((turn["start_frame"] + n - first) / rate for n in (0, turn["num_frames"]))
        tokens += [*scene.encoded(f"[{start_s:.2f}]"), scene.tag(turn["speaker"]), *scene.words_of(turn)]
        tokens += scene.encoded(f"[{end_s:.2f}]")
    return tokens


def token_level(scene: Scene, turns: Sequence[Turn]) -> list[int]:
    """Return all words by the frame they end in, `<cc>` where the virtual channel changes.

    Source: Kanda et al. 2022, arXiv:2202.00842, section 3.1.

    Raises:
        UnusableRowError: word times are missing.
    """
    ordered = by_start(turns, scene.speakers)
    channels = virtual_channels([(t["start_frame"], t["start_frame"] + t["num_frames"]) for t in ordered])
    spoken = []
    for number, (turn, channel) in enumerate(zip(ordered, channels, strict=True)):
        if not turn["words"]:
            raise UnusableRowError(
                f"turn {turn['utterance_id']} has no word times, which task asr_token needs; "
                "hubbub data align finds them"
            )
        for place, word in enumerate(turn["words"]):
            end = word["start_frame"] + word["num_frames"]
            spoken.append((end, word["start_frame"], number, place, channel, word["word"]))
    tokens: list[int] = []
    last = None
    for _, _, _, _, channel, word in sorted(spoken):
        change = last is not None and channel != last
        tokens += [scene.tokenizer.CHANGE] * change
        tokens += scene.encoded(word if last is None or change else f" {word}")
        last = channel
    return tokens


Way = Callable[[Scene, Sequence[Turn]], list[int]]


def heard(scene: Scene) -> bytes:
    """Return the window's codes, as prompts have them."""
    codes = scene.mixture(scene.window.start_frame, scene.window.end_frame)
    return distinct(codes, scene.codec) if scene.deduplicate else codes


def asr_prompt(scene: Scene, first: Sequence[int]) -> Document:
    """Return `<task>`, what is carried over from the windows before, and the window's audio."""
    document = Document(scene.layout, scene.codec)
    document.text(first)
    if scene.carry_voices and scene.window.start_frame:
        for speaker in scene.speakers:
            voice = scene.solo(speaker, before=scene.window.start_frame)
            if voice is not None:
                document.text([scene.tag(speaker), scene.tokenizer.ENROL])
                document.audio(scene.mixture(*voice))
    if scene.window.carried:
        document.text([scene.tokenizer.CARRY, *arrival(scene, scene.window.carried)])
    first_column = document.audio(heard(scene))
    if not scene.deduplicate:  # else time is lost
        document.talkers(first_column, scene)
    return document


def _transcription(first: int, way: Way) -> "Task":
    def make(scene: Scene) -> Iterator[Document]:
        if not any(turn["text_normalized"] for turn in scene.window.turns):
            raise UnusableRowError(
                f"{scene.row['conversation_id']} has no text to write down; recorded conversations get it from STM or "
                "supervisions"
            )
        document = asr_prompt(scene, [first])
        document.text([scene.tokenizer.TEXT])
        document.text([*way(scene, scene.window.turns), scene.tokenizer.END], weight=1.0)
        yield document

    return make


def _instructions(scene: Scene) -> list[tuple[str, list[Turn], str | None]]:
    """Return what could be asked of a window: instruction, the turns that answer it, and whose voice is given.

    The six kinds of Meng et al. 2024, "Large language model can transcribe speech in multi-talker scenarios with
    versatile instructions" (MT-LLM), arXiv:2409.08596, section 2.3.
    """
    turns = by_start(scene.window.turns, scene.speakers)
    present = [speaker for speaker in scene.speakers if any(t["speaker"] == speaker for t in turns)]
    found: list[tuple[str, list[Turn], str | None]] = [("all", turns, None)]
    for number, speaker in enumerate(present, 1):
        own = [t for t in turns if t["speaker"] == speaker]
        found.append((f"speaker {number}", own, None))
        found.append(("voice", own, speaker))
    for name in ("gender", "language"):
        values = sorted({t[name] for t in turns if t[name]})
        if len(values) > 1 and all(t[name] for t in turns):
            found += [(f"{name} {value}", [t for t in turns if t[name] == value], None) for value in values]
    said = {s: {w for t in turns if t["speaker"] == s for w in t["text_normalized"].split()} for s in present}
    for speaker in present:
        others = {word for other in present if other != speaker for word in said[other]}
        own_words = sorted(word for word in said[speaker] - others if len(word) > 3)
        found += [(f"says {word}", [t for t in turns if t["speaker"] == speaker], None) for word in own_words[:1]]
    return found


def _asked(scene: Scene) -> Iterator[Document]:
    """Write down what an instruction asks for; which kind is drawn for each document."""
    kinds = _instructions(scene)
    draw = scene.draw("instruction")
    names = sorted({text.split()[0] for text, _, _ in kinds})
    kind = names[int(draw.integers(len(names)))]
    options = [one for one in kinds if one[0].split()[0] == kind]
    text, turns, voice = options[int(draw.integers(len(options)))]
    document = Document(scene.layout, scene.codec)
    document.text([scene.tokenizer.ASR_TARGET, scene.tokenizer.INSTRUCTION, *scene.encoded(text)])
    if voice is not None:
        span = scene.solo(voice)
        if span is None:
            return  # nobody to recognize them by
        document.text([scene.tokenizer.ENROL])
        document.audio(scene.mixture(*span))
    document.text([scene.tokenizer.AUDIO])
    document.audio(heard(scene))
    document.text([scene.tokenizer.TEXT])
    document.text([*arrival(scene, turns), scene.tokenizer.END], weight=1.0)
    yield document


def _with_hotwords(scene: Scene) -> Iterator[Document]:
    """Write everything down, with words in the prompt some of which are said.

    Half of the long words of the window, and as many of the rest of the conversation that are not said in it.
    """
    draw = scene.draw("hotwords")
    inside = {w for t in scene.window.turns for w in t["text_normalized"].split() if len(w) > 4}
    everywhere = {w for t in scene.row["turns"] for w in t["text_normalized"].split() if len(w) > 4}
    said, unsaid = sorted(inside), sorted(everywhere - inside)
    words = [said[i] for i in draw.permutation(len(said))[: -(-len(said) // 2)]]
    words += [unsaid[i] for i in draw.permutation(len(unsaid))[: len(words)]]
    hint = " ".join(words[i] for i in draw.permutation(len(words)))
    document = asr_prompt(scene, [scene.tokenizer.ASR_CONTEXT, scene.tokenizer.INSTRUCTION, *scene.encoded(hint)])
    document.text([scene.tokenizer.TEXT])
    document.text([*arrival(scene, scene.window.turns), scene.tokenizer.END], weight=1.0)
    yield document


# ------------------------------------------------------------------------------------------------- making audio


def _continuation(scene: Scene) -> Iterator[Document]:
    """Go on from the first seconds."""
    frames = scene.window.end_frame - scene.window.start_frame
    if frames <= scene.prompt_frames:
        return
    document = Document(scene.layout, scene.codec)
    document.text([scene.tokenizer.CONTINUE])
    document.audio(scene.mixture(scene.window.start_frame, scene.window.end_frame), targets_from=scene.prompt_frames)
    document.text([scene.tokenizer.AUDIO_END], weight=1.0)
    yield document


def _extraction(scene: Scene) -> Iterator[Document]:
    """Make one speaker's own sound of the mixture, without the others, noise and room, from a sample of the voice.

    Source: Wang et al. 2023, "SpeechX", arXiv:2308.06873, section 3.3 (target speaker extraction, noise suppression).
    """
    present = [s for s in scene.speakers if any(t["speaker"] == s for t in scene.window.turns)]
    voices = {speaker: span for speaker in present if (span := scene.solo(speaker)) is not None}
    if not voices:
        return
    speaker = sorted(voices)[int(scene.draw("extract").integers(len(voices)))]
    document = Document(scene.layout, scene.codec)
    document.text([scene.tokenizer.EXTRACT, scene.tokenizer.ENROL])
    document.audio(scene.mixture(*voices[speaker]))
    document.text([scene.tokenizer.TEXT])
    document.audio(scene.mixture(scene.window.start_frame, scene.window.end_frame))
    document.text([scene.tokenizer.AUDIO])
    document.audio(scene.stem(speaker, scene.window.start_frame, scene.window.end_frame), targets_from=0)
    document.text([scene.tokenizer.AUDIO_END], weight=1.0)
    yield document


def _synthesis(scene: Scene) -> Iterator[Document]:
    """Speak a dialogue from its speaker-tagged script, in voices of which samples are given.

    Source: Wang et al. 2023, "VALL-E", arXiv:2301.02111, section 4 (an enrolled voice as prompt), for several speakers.
    """
    document = Document(scene.layout, scene.codec)
    document.text([scene.tokenizer.SPEAK])
    for speaker in scene.speakers:
        span = scene.solo(speaker)
        if span is not None and any(t["speaker"] == speaker for t in scene.window.turns):
            document.text([scene.tag(speaker), scene.tokenizer.ENROL])
            document.audio(scene.mixture(*span))
    document.text([scene.tokenizer.TEXT, *arrival(scene, scene.window.turns), scene.tokenizer.AUDIO])
    document.audio(scene.mixture(scene.window.start_frame, scene.window.end_frame), targets_from=0)
    document.text([scene.tokenizer.AUDIO_END], weight=1.0)
    yield document


def _duplex(scene: Scene) -> Iterator[Document]:
    """Two speakers' own sound side by side, and what the first is about to say as text in the same columns.

    The two streams are frames side by side (a group of two); the text cell of a column holds the next token of a word
    from the column on in which the word begins.

    Source: Défossez et al. 2024, "Moshi", arXiv:2410.00037, sections 3.4.3 and 3.4.4 (multi-stream, inner monologue).

    Raises:
        UnusableRowError: the layout cannot hold two streams, or there are no stems.
    """
    if getattr(scene.layout, "group", 1) % 2:
        raise UnusableRowError("task duplex needs two frames side by side: --compose.group 2 (or another even number)")
    present = [s for s in scene.speakers if any(t["speaker"] == s for t in scene.window.turns)]
    if len(present) != 2:
        return
    start, end = scene.window.start_frame, scene.window.end_frame
    size = scene.codec.num_codebooks * scene.codec.bits // 8
    both = [np.frombuffer(scene.stem(s, start, end), np.uint8).reshape(-1, size) for s in present]
    document = Document(scene.layout, scene.codec)
    document.text([scene.tokenizer.DUPLEX])
    frames = scene.prompt_frames
    first = document.audio(np.stack(both, axis=1).tobytes(), targets_from=min(2 * frames, 2 * (end - start) - 2))
    per_column = getattr(scene.layout, "group", 1) // 2
    free = 0
    columns: list[tuple[int, int]] = []
    for turn in by_start(scene.window.turns, scene.speakers):
        if turn["speaker"] != present[0]:
            continue
        words = [(w["word"], w["start_frame"]) for w in turn["words"]] or [
            (turn["text_normalized"], turn["start_frame"])
        ]
        for number, (word, frame) in enumerate(words):
            for token in scene.encoded(f" {word}" if number else word):
                free = max(free, (frame - start) // per_column)
                if first + free < document.columns:
                    columns.append((first + free, token))
                free += 1
    # Behind the audio segment, whose columns they share; streams are read in the order of segments.
    for column, token in columns:
        document.segments.append({"kind": TEXT, "start_column": column, "length": 1})
        document.text_tokens.append(token)
    document.text([scene.tokenizer.AUDIO_END], weight=1.0)
    yield document


def _interleaved(scene: Scene) -> Iterator[Document]:
    """Some turns as sound, the others as text, in the order of the conversation, all of it predicted.

    Only turns that nobody overlaps are given as sound.

    Source: Wang et al. 2025, "InSerter", arXiv:2503.02769, section 3 (interleaved speech and text).
    """
    turns = by_start(scene.window.turns, scene.speakers)
    draw = scene.draw("interleave").random(len(turns))
    document = Document(scene.layout, scene.codec)
    document.text([scene.tokenizer.INTERLEAVE])
    for turn, chance in zip(turns, draw.tolist(), strict=True):
        start, end = turn["start_frame"], turn["start_frame"] + turn["num_frames"]
        alone = all(t is turn or t["start_frame"] >= end or t["start_frame"] + t["num_frames"] <= start for t in turns)
        document.text([scene.tag(turn["speaker"])], weight=1.0)
        if alone and chance < 0.5:
            document.text([scene.tokenizer.AUDIO], weight=1.0)
            document.audio(scene.mixture(start, min(end, scene.row["num_frames"])), targets_from=0)
            document.text([scene.tokenizer.AUDIO_END], weight=1.0)
        else:
            document.text(scene.words_of(turn), weight=1.0)
    document.text([scene.tokenizer.END], weight=1.0)
    yield document


Task = Callable[[Scene], Iterator[Document]]
"""Makes the documents of a window: one, or none where the task has nothing to ask of it."""

TASKS: dict[str, Task] = {
    "asr": _transcription(ByteTokenizer.ASR, arrival),
    "asr_fifo": _transcription(ByteTokenizer.ASR_FIFO, fifo),
    "asr_timed": _transcription(ByteTokenizer.ASR_TIMED, timed),
    "asr_token": _transcription(ByteTokenizer.ASR_TOKEN, token_level),
    "asr_target": _asked,
    "asr_context": _with_hotwords,
    "continue": _continuation,
    "extract": _extraction,
    "speak": _synthesis,
    "duplex": _duplex,
    "interleave": _interleaved,
}
KNOWS_WHO_TALKS = ("asr", "asr_fifo", "asr_timed", "asr_token", "asr_context")
NEEDS_STEMS = ("extract", "duplex")
