"""Serialized output: the turns of several speakers as one sequence of tokens."""

from collections.abc import Sequence

from operators.corpus.annotations import virtual_channels
from operators.documents.scene import Scene, by_start
from operators.documents.split_turns import Turn
from operators.errors import UnusableRowError


def arrival(scene: Scene, turns: Sequence[Turn]) -> list[int]:
    """Return turns by start, each after its speaker's arrival-order tag.

    Source: Kanda et al. 2020, arXiv:2003.12687 (serialized output); Park et al. 2024, arXiv:2409.06656 (arrival order).
    """
    ordered = by_start(turns, scene.speakers)
    return [token for turn in ordered for token in (scene.tag(turn["speaker"]), *scene.turn_tokens(turn))]


def fifo(scene: Scene, turns: Sequence[Turn]) -> list[int]:
    """Return turns by start, separated by `<sc>`. Source: Kanda et al. 2020, arXiv:2003.12687, section 3.1."""
    tokens: list[int] = []
    for number, turn in enumerate(by_start(turns, scene.speakers)):
        tokens += [scene.tokenizer.CHANGE] * bool(number) + scene.turn_tokens(turn)
    return tokens


def timed(scene: Scene, turns: Sequence[Turn]) -> list[int]:
    """Return turns as `[start][s0]text[end]`, in seconds from the window's start.

    Source: MOSS Transcribe-Diarize, arXiv:2601.01554.
    """
    rate, first = scene.codec.frame_rate_hz, scene.window.start_frame
    tokens: list[int] = []
    for turn in by_start(turns, scene.speakers):
        start_s, end_s = ((turn["start_frame"] + n - first) / rate for n in (0, turn["num_frames"]))
        tokens += [*scene.encode(f"[{start_s:.2f}]"), scene.tag(turn["speaker"]), *scene.turn_tokens(turn)]
        tokens += scene.encode(f"[{end_s:.2f}]")
    return tokens


def token_level(scene: Scene, turns: Sequence[Turn]) -> list[int]:
    """Return all words by the frame they end in, `<cc>` where the virtual channel changes.

    Source: Kanda et al. 2022, arXiv:2202.00842, section 3.1.

    Raises:
        UnusableRowError: a turn has no word times.
    """
    ordered = by_start(turns, scene.speakers)
    channels = virtual_channels([(t["start_frame"], t["start_frame"] + t["num_frames"]) for t in ordered])
    timeline = []
    for number, (turn, channel) in enumerate(zip(ordered, channels, strict=True)):
        if not turn["words"]:
            raise UnusableRowError(
                f"turn {turn['utterance_id']} has no word times, which task asr_token needs; "
                "hubbub data align finds them"
            )
        for place, word in enumerate(turn["words"]):
            end = word["start_frame"] + word["num_frames"]
            timeline.append((end, word["start_frame"], number, place, channel, word["word"]))
    tokens: list[int] = []
    last = None
    for _, _, _, _, channel, word in sorted(timeline):
        change = last is not None and channel != last
        tokens += [scene.tokenizer.CHANGE] * change
        tokens += scene.encode(word if last is None or change else f" {word}")
        last = channel
    return tokens
