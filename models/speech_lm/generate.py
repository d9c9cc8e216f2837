"""Generation of text and audio: prompts prefilled packed, then one column a step for all of them at once."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from models.layouts.layout import Layout
from models.sequence.batch import Batch, collate
from models.sequence.documents import AUDIO, GridSpec, PackedDocuments
from models.sequence.grammar import Grammar
from models.sequence.tokenizer import ByteTokenizer
from models.speech_lm.depth import DepthTransformer
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
) -> list[list[int]]:
    """Continue each prompt with the likeliest text token until `end`.

    Args:
        model: the speech-LLM; its device is used.
        prompts: packs of one document each, without loss spans.
        grid: what their integers mean.
        end: the token that ends an answer.
        max_tokens: an answer's greatest length.
        grammars: what each answer may look like; anything where none are given.

    Returns:
        The tokens of each answer, without `end`.
    """
    if not prompts:
        return []
    model.eval()
    device = next(model.parameters()).device
    batch = collate(prompts, grid).to(device)
    hidden, cache = model.prefill(batch, room=max_tokens, backend=model.backend())
    answers: list[list[int]] = [[] for _ in prompts]
    running = torch.ones(len(prompts), dtype=torch.bool, device=device)
    states = [grammar.start() for grammar in grammars or ()]
    for number in range(max_tokens):
        logits = model.text_logits(hidden).float()
        logits[:, 0] = -torch.inf  # pad is not text
        if grammars:
            may = [grammar.mask(state) for grammar, state in zip(grammars, states, strict=True)]
            logits.masked_fill_(~torch.stack(may).to(device), -torch.inf)
        tokens = logits.argmax(dim=-1)
        running &= tokens != end
        if not bool(running.any()):
            break
        for answer, token, goes_on in zip(answers, tokens.tolist(), running.tolist(), strict=True):
            if goes_on:
                answer.append(token)
        if grammars:
            written = zip(grammars, states, tokens.tolist(), running.tolist(), strict=True)
            states = [g.advance(state, token) if goes_on else state for g, state, token, goes_on in written]
        if number + 1 < max_tokens:
            hidden = model.step(tokens, cache)
    return answers


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


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How a cell is drawn from its distribution."""

    temperature: float = 1.0
    """Below 1 sharper, above flatter; 0 takes the likeliest."""
    top_p: float = 0.95
    """Nucleus: the likeliest ids that make up this share. Holtzman et al. 2020, arXiv:1904.09751, section 3.1."""
    repetition_window: int = 10
    """Columns in which an id may not come too often."""
    repetition_share: float = 0.5
    """Above this share of them it is drawn again, from all ids. Chen et al. 2024, "VALL-E 2", arXiv:2406.05370, 3.3."""
    seed: int = 0
    """Prompt number i has generator seed + i: what else is made at once changes nothing."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.temperature < 0 or not 0 < self.top_p <= 1 or self.repetition_window < 0:
            raise ValueError("sampling: temperature >= 0, 0 < top_p <= 1 and repetition_window >= 0 must hold")

    def draw(self, logits: torch.Tensor, uniforms: torch.Tensor, recent: torch.Tensor | None) -> torch.Tensor:
        """Return an id for each row.

        Args:
            logits: (B, V).
            uniforms: (B, 2) in [0, 1).
            recent: (B, W) ids that came before, where repetition counts.
        """
        if self.temperature == 0:
            return logits.argmax(dim=-1)
        probabilities = torch.softmax(logits.double() / self.temperature, dim=-1)
        ranked, order = probabilities.sort(dim=-1, descending=True)
        kept = ranked.where(ranked.cumsum(dim=-1) - ranked < self.top_p, torch.zeros_like(ranked))
        chosen = order.gather(1, _inverse(kept, uniforms[:, 0])[:, None])[:, 0]
        if recent is None or not recent.shape[1]:
            return chosen
        often = (recent == chosen[:, None]).double().mean(dim=-1) > self.repetition_share
        return torch.where(often, _inverse(probabilities, uniforms[:, 1]), chosen)


def _inverse(weights: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """Return where each row's running sum of weights passes a share of the whole."""
    running = weights.cumsum(dim=-1)
    passed = (running <= uniforms[:, None] * running[:, -1:]).sum(dim=-1)
    return passed.clamp(max=weights.shape[1] - 1)


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

    Returns:
        Codes (K, T) of each answer, `given` first.
    """
    if not prompts:
        return []
    sampling = sampling or Sampling()
    model.eval()
    device = next(model.parameters()).device
    forced, is_free = (
        [torch.from_numpy(part).to(device) for part in parts]
        for parts in zip(*(_forced(grid.layout, one, grid, max_frames) for one in given), strict=True)
    )
    # Columns of which all is given are read with the prompt, as in training, where a prompt may see both ways.
    leads = [int(free.any(dim=0).to(torch.int64).argmax()) if bool(free.any()) else free.shape[1] for free in is_free]
    answers: dict[int, NDArray[np.uint16]] = {}
    for lead in sorted(set(leads)):
        numbers = [number for number, one in enumerate(leads) if one == lead]
        some = _Given(
            lead=lead,
            forced=torch.stack([forced[n] for n in numbers]),
            is_free=torch.stack([is_free[n] for n in numbers]),
            lengths=torch.tensor([grid.layout.num_columns(given[n].shape[1]) for n in numbers]),
        )
        generators = [torch.Generator().manual_seed(sampling.seed + number) for number in numbers]
        batch = collate([prompts[n] for n in numbers], grid).to(device)
        made = _generate(model, batch, grid.layout, some, generators, max_frames, end, sampling, pad_weight)
        answers |= dict(zip(numbers, made, strict=True))
    return [answers[number] for number in range(len(prompts))]


@dataclass(frozen=True)
class _Given:
    """What is known of some answers before any of it is drawn."""

    lead: int
    """Columns, from the first, of which every cell is given: as many in all of the answers."""
    forced: torch.Tensor  # (B, S, C) cells
    is_free: torch.Tensor  # (B, S, C) which of them are drawn instead
    lengths: torch.Tensor  # (B,) columns that hold given frames


def _generate(
    model: SpeechLM,
    prompts: Batch,
    layout: Layout,
    given: _Given,
    generators: Sequence[torch.Generator],
    max_frames: int,
    end: int,
    sampling: Sampling,
    pad_weight: float,
) -> list[NDArray[np.uint16]]:
    """Return the answers to some prompts, column by column after those that are given."""
    most, lead, device = layout.num_columns(max_frames), given.lead, prompts.text.device
    read = prompts.with_given(given.forced[:, :, :lead].transpose(1, 2))
    hidden, cache = model.prefill(read, most - lead, model.backend())
    made = torch.empty((len(generators), layout.num_streams, most), dtype=torch.int64, device=device)
    made[:, :, :lead] = given.forced[:, :, :lead]
    lengths = torch.full((len(generators),), most)
    running = torch.ones(len(generators), dtype=torch.bool)
    for one in generators:  # a column's draws are its own, given or not
        torch.rand((lead, layout.num_streams + 1, 2), generator=one)
    for column in range(lead, most):
        # Generated audio may end only after the part of it that is given.
        may_end = running & (column >= given.lengths) & layout.is_open_ended
        drawn = [torch.rand((layout.num_streams + 1, 2), generator=one) for one in generators]
        uniforms = torch.stack(drawn).to(device)
        if bool(may_end.any()):
            pair = model.text_logits(hidden)[:, [ByteTokenizer.PAD, end]].float()
            pair[:, 0] -= math.log(pad_weight)
            stops = sampling.draw(pair, uniforms[:, -1], None).bool().cpu() & may_end
            lengths[stops] = column
            running &= ~stops
            if not bool(running.any()):
                break
        ids = layout.id_range(column, max_frames)
        forced, is_free = given.forced[:, :, column], given.is_free[:, :, column]
        cells = _cells(model, hidden, forced, is_free, uniforms, made[:, :, :column], ids, sampling)
        made[:, :, column] = cells
        if column + 1 < most:
            hidden = model.step(torch.zeros(len(generators), dtype=torch.int64, device=device), cache, cells)
    answers = []
    for row, length in zip(made.cpu().numpy(), lengths.tolist(), strict=True):
        frames = max_frames if length == most else frames_in(layout, length)
        codes = layout.from_grid(row[:, : layout.num_columns(frames)], frames)
        answers.append(codes.astype(np.uint16))
    return answers


def _forced(
    layout: Layout, given: NDArray[np.uint16], grid: GridSpec, max_frames: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return the cells (S, C) that are not to be drawn (given frames, and corners of pad), and which are."""
    codes = np.zeros((grid.num_codebooks, max_frames), np.int64)
    codes[:, : given.shape[1]] = given[:, :max_frames]
    other = codes.copy()
    other[:, given.shape[1] :] = 1
    one, two = layout.to_grid(codes), layout.to_grid(other)
    return one.astype(np.int64), one != two


def _cells(
    model: SpeechLM,
    hidden: torch.Tensor,
    forced: torch.Tensor,
    is_free: torch.Tensor,
    uniforms: torch.Tensor,
    before: torch.Tensor,
    ids: tuple[int, int],
    sampling: Sampling,
) -> torch.Tensor:
    """Return a column's cells (B, S), of ids in a range."""
    size, head, window = model.vocabulary.codebook_size, model.audio_head, sampling.repetition_window
    recent = before[:, :, before.shape[2] - window :] if 0 < window <= before.shape[2] else None
    assert head is not None
    cells = forced.clone()
    flat = None if isinstance(head, DepthTransformer) else head(hidden).view(len(hidden), -1, size)
    for stream in range(forced.shape[1]):
        if not bool(is_free[:, stream].any()):
            continue
        if isinstance(head, DepthTransformer):
            state = head.states(hidden, cells[:, :stream])[:, -1]
            logits = state @ head.head.weight.view(-1, size, state.shape[1])[stream].T
        else:
            assert flat is not None
            logits = flat[:, stream]
        low, high = ids
        came = None if recent is None else recent[:, stream] - low
        drawn = sampling.draw(logits[:, low:high].float(), uniforms[:, stream], came) + low
        cells[:, stream] = torch.where(is_free[:, stream], drawn, cells[:, stream])
    return cells
