"""Generation of text and audio: prompts prefilled packed, then one column a step for all of them at once."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from models.layouts.layout import Layout
from models.sequence.batch import collate
from models.sequence.documents import AUDIO, GridSpec, PackedDocuments
from models.sequence.grammar import Grammar
from models.sequence.tokenizer import ByteTokenizer
from models.speech_lm.decode.audio import AudioTask, Given
from models.speech_lm.decode.beam import BeamSearch
from models.speech_lm.decode.decoder import Decoder
from models.speech_lm.decode.sampling import Sampling
from models.speech_lm.model import SpeechLM
from models.speech_lm.precision import in_precision_of_device


@torch.no_grad()
@in_precision_of_device
def greedy_text(
    model: SpeechLM,
    prompts: Sequence[PackedDocuments],
    grid: GridSpec,
    *,
    end: int,
    max_tokens: int,
    grammars: Sequence[Grammar[Any]] | None = None,
    slots: int | None = None,
    decoder: Decoder | None = None,
) -> list[list[int]]:
    """Continue each prompt with the likeliest text token until `end`.

    Args:
        model: the speech-LLM; its device is used.
        prompts: packs of one document each, without loss spans.
        grid: what their integers mean.
        end: the token that ends an answer.
        max_tokens: an answer's greatest length.
        grammars: what each answer may look like; anything where none are given.
        slots: answers that are made at once, each followed by that to the next prompt; by default all.
        decoder: of the model, where it has been used before: it keeps what it has prepared.

    Returns:
        The tokens of each answer, without `end`.
    """
    decoder = decoder or Decoder(model)
    slots = slots or len(prompts)
    return decoder.text(prompts, grid, end=end, max_tokens=max_tokens, grammars=grammars, slots=slots)


@torch.no_grad()
@in_precision_of_device
def beam_text(
    model: SpeechLM,
    prompts: Sequence[PackedDocuments],
    grid: GridSpec,
    search: BeamSearch,
    *,
    grammars: Sequence[Grammar[Any]] | None = None,
    slots: int | None = None,
    decoder: Decoder | None = None,
) -> list[list[int]]:
    """Continue each prompt with the text that a beam search finds likeliest.

    Args:
        model: the speech-LLM; its device is used.
        prompts: packs of one document each, without loss spans.
        grid: what their integers mean.
        search: width, end and length.
        grammars: what each answer may look like, as tables; anything where none are given.
        slots: prompts that are answered at once; by default all.
        decoder: of the model, where it has been used before.

    Returns:
        The tokens of each answer, without the end.
    """
    decoder = decoder or Decoder(model)
    return decoder.beams(prompts, grid, search, grammars=grammars, slots=slots or max(len(prompts), 1))


@torch.no_grad()
@in_precision_of_device
def talker_probabilities(
    model: SpeechLM, prompts: Sequence[PackedDocuments], grid: GridSpec
) -> list[NDArray[np.float32] | None]:
    """Return how probably each talker (T,), by arrival, speaks in each frame of the last audio of each prompt.

    Args:
        model: trained with an activity loss; its device is used.
        prompts: packs of one document each.
        grid: what their integers mean.

    Returns:
        (frames, MAX_SPEAKERS) each. Talkers beyond those that the prompt's audio has mean nothing.
    """
    device = next(model.parameters()).device
    batch = collate(prompts, grid).to(device)
    hidden = model.eval().states(batch, model.backend())
    rows = model.text_weight[ByteTokenizer.FIRST_SPEAKER : ByteTokenizer.FIRST_TEXT]
    found: list[NDArray[np.float32] | None] = []
    for first, prompt in zip(batch.boundaries, prompts, strict=False):
        _, start, frames = [segment for segment in prompt.segments.tolist() if segment[0] == AUDIO][-1]
        columns = [first + start + grid.layout.target_columns(frame, frames)[0][0] for frame in range(frames)]
        of_columns = torch.sigmoid(F.linear(hidden[torch.tensor(columns, device=device)], rows).float())
        found.append(of_columns.cpu().numpy())
    return found


def frames_in(layout: Layout, columns: int) -> int:
    """Return how many whole frames so many columns hold.

    >>> from models.layouts.delay import Delay
    >>> frames_in(Delay(4, 16), 13)
    10
    """
    low, high = 0, columns * layout.num_streams + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if layout.num_columns(middle) <= columns else (low, middle)
    return low


@torch.no_grad()
@in_precision_of_device
def generate_audio(
    model: SpeechLM,
    prompts: Sequence[PackedDocuments],
    grid: GridSpec,
    *,
    given: Sequence[NDArray[np.uint16]],
    max_frames: int,
    end: int,
    sampling: Sampling | None = None,
    pad_weight: float = 1.0,
    slots: int | None = None,
    decoder: Decoder | None = None,
) -> list[NDArray[np.uint16]]:
    """Make the audio that comes after each prompt, until the model ends it.

    Args:
        model: the speech-LLM; its device is used.
        prompts: packs of one document each, up to the token that audio follows.
        grid: what their integers mean.
        given: the first frames (K, P) of each answer, to be continued; P may be 0.
        max_frames: of an answer; exactly its length where the layout is not open-ended (coarse_first).
        end: the text token that ends audio.
        sampling: how cells are drawn.
        pad_weight: weight in training of the cells that said that audio goes on, as in the checkpoint's header: the
            odds of an end that the model learned are as many times too high, and are corrected by it.
        slots: answers that are made at once, each followed by that to the next prompt; by default all.
        decoder: of the model, where it has been used before: it keeps what it has prepared.

    Returns:
        Codes (K, T) of each answer, `given` first.
    """
    layout = grid.layout
    task = AudioTask(layout, max_frames, end, sampling or Sampling(), pad_weight)
    known = [_given(layout, one, grid, max_frames) for one in given]
    decoder = decoder or Decoder(model)
    answers = []
    for cells, columns in decoder.audio(prompts, grid, known, task, slots or len(prompts)):
        frames = max_frames if columns == task.num_columns else frames_in(layout, columns)
        codes = layout.from_grid(cells[:, : layout.num_columns(frames)], frames)
        answers.append(codes.astype(np.uint16))
    return answers


def _given(layout: Layout, given: NDArray[np.uint16], grid: GridSpec, max_frames: int) -> Given:
    """Return the cells that are not to be drawn (of given frames, and corners of pad), and which are."""
    codes = np.zeros((grid.num_codebooks, max_frames), np.int64)
    codes[:, : given.shape[1]] = given[:, :max_frames]
    other = codes.copy()
    other[:, given.shape[1] :] = 1
    one, two = layout.to_grid(codes), layout.to_grid(other)
    is_free = one != two
    lead = int(is_free.any(axis=0).argmax()) if is_free.any() else is_free.shape[1]
    return Given(lead, one.astype(np.int64), is_free, layout.num_columns(given.shape[1]))
