"""Who speaks when: casts to conversations on a timeline, before a byte of audio is mixed."""

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import scipy  # its modules are loaded when they are used
from numpy.typing import NDArray

from models.config.settings import BY_CONTENT
from operators.corpus.normalizers import normalize
from operators.errors import InputError
from operators.rng import rng
from operators.schema import CASTS, CONVERSATIONS, TURN
from operators.simulate import baselines
from operators.simulate import timeline_kernels as kernels
from operators.simulate.liveliness import hosts_dispersion, livelinesses, tempo_of_switches
from operators.simulate.turn_taking import Prior, prior_of

Ints = NDArray[np.int64]

TRANSITIONS = ("hold", "switch_gap", "switch_overlap", "backchannel", "start")
LONGEST_BACKCHANNEL_S = 1.9
_COUPLING_STEPS = 96


def resampled_length(num_samples: int, from_hz: int, to_hz: int) -> int:
    """Return how many samples a recording has at another rate: the one rounding rule of the project.

    >>> resampled_length(22050, 22050, 16000)
    16000
    """
    return (num_samples * to_hz + from_hz // 2) // from_hz


def compressed(pauses_s: NDArray[np.float64], above_s: float) -> NDArray[np.float64]:
    """Return pauses with long ones shortened: unchanged up to a length, growing as a logarithm above it.

    >>> compressed(np.array([1.0, 1.5, 10.0]), above_s=1.5).round(2).tolist()
    [1.0, 1.5, 2.95]
    """
    over = np.maximum(0.0, pauses_s - above_s)
    return np.where(over > 0, above_s + 0.5 * np.log1p(over / 0.5), pauses_s)


@dataclass(frozen=True)
class Pieces:
    """What the speakers of one conversation may say, in the order of their stories."""

    utterance: Ints  # row among the batch's utterances
    first_word: Ints  # of a part of an utterance; -1 where it is whole
    end_word: Ints
    num_samples: Ints  # on the timeline


@dataclass(frozen=True, kw_only=True)
class Converse:
    """Puts utterances on a timeline: turns change hands as the prior says, offsets follow it whatever fits."""

    prior: str = field(default="meeting", metadata=BY_CONTENT)
    """How people take turns: meeting, telephone or broadcast, or a file that `hubbub data fit` wrote."""
    model: Literal["copula", "sasc", "landini", "librispeechmix"] = "copula"
    """Turn-taking: ours, or another simulator's to compare with (SASC; Landini et al.; LibriSpeechMix)."""
    min_turns: int = 4
    """Fewest turns in a conversation, backchannels not counted."""
    max_turns: int = 8
    """Most turns in a conversation."""
    max_duration_s: float = 30.0
    """No turn is added that would end later."""
    sample_rate_hz: int = 16_000
    """Rate of the timeline and of the mixture."""
    min_own_pause_s: float = 0.1
    """Least silence between two turns of one speaker: nobody overlaps themselves."""
    backchannels: bool = False
    """Whether listeners say a word or two meanwhile, cut from their own utterances by word times."""
    cut_above_s: float = 0.0
    """Longer utterances are cut at pauses between words into pieces of the prior's lengths; 0 leaves them whole."""
    compress_above_s: float = 0.0
    """Longer silences are compressed, in the prior and inside utterances that are cut; 0 leaves them."""
    speaker_gain_sd_db: float = 2.0
    """Spread of the speakers' levels; a speaker keeps one level through a conversation."""

    reads: ClassVar[pa.Schema] = CASTS
    writes: ClassVar[pa.Schema] = CONVERSATIONS
    version: ClassVar[str] = "3"

    def __post_init__(self) -> None:
        """Check the numbers."""
        if not 1 <= self.min_turns <= self.max_turns:
            raise InputError("converse: 1 <= min_turns <= max_turns does not hold")
        if self.max_duration_s <= 0 or min(self.min_own_pause_s, self.cut_above_s, self.compress_above_s) < 0:
            raise InputError("converse: durations must be positive")
        if self.model != "copula" and self.backchannels:
            raise InputError(f"converse.model {self.model} knows no backchannels; leave out --converse.backchannels")
        prior_of(self.prior)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Return one conversation a cast."""
        lists = batch["utterances"].combine_chunks()
        lists = lists.chunk(0) if isinstance(lists, pa.ChunkedArray) else lists
        utterances = lists.flatten()
        said = _Utterances(utterances, self.sample_rate_hz)
        borders = np.asarray(lists.offsets).astype(np.int64)
        borders = borders - borders[0] if len(borders) else borders
        names = batch.select(["conversation_id", "split", "seed", "speakers"]).to_pylist()
        prior = prior_of(self.prior)
        tables = _Tables.of(prior, self.compress_above_s)
        planned = [
            self._plan(row, said, int(borders[i]), int(borders[i + 1]), prior, tables) for i, row in enumerate(names)
        ]
        return _assemble(names, planned, utterances, said, self)

    def _plan(
        self, cast: dict[str, Any], said: "_Utterances", first: int, end: int, prior: Prior, tables: "_Tables"
    ) -> "_Planned":
        """Decide one conversation."""
        speakers: list[str] = cast["speakers"]
        draw = rng(cast["seed"], "turns", cast["conversation_id"])
        target = int(draw.integers(self.min_turns, self.max_turns + 1))
        gains = np.clip(draw.normal(0.0, self.speaker_gain_sd_db, len(speakers)), -6.0, 6.0)
        tempo, pace = draw.standard_normal(2).tolist()
        habits = draw.standard_normal(len(speakers))
        steadiness, chattiness = livelinesses(prior, draw.standard_normal(2).tolist(), tempo)
        weights = draw.dirichlet(np.full(len(speakers), prior.dominance))

        rows = np.arange(first, end)
        place = {speaker: number for number, speaker in enumerate(speakers)}
        speaker_of = np.array([place[s] for s in said.speaker[first:end]], np.int64)
        order = np.argsort(speaker_of, kind="stable")
        pieces, owner = self._pieces(said, rows[order], speaker_of[order], prior, draw)
        begins = np.searchsorted(owner, np.arange(len(speakers) + 1))
        seconds = pieces.num_samples / self.sample_rate_hz
        if self.model != "copula":
            return self._as_others(pieces, seconds, begins, target, gains, tables.as_prior(prior), draw)
        attempts = min(target, len(seconds)) + len(speakers) + 1
        draws, normals = draw.random((attempts, 3)), draw.standard_normal((attempts, 2))
        ranked = np.sort(seconds)
        back = 1.0 if len(speakers) == 2 else prior.return_share
        overlap, hazard = kernels.coupling(
            tables.offsets, ranked, back, 1 - prior.hold_after[1], self.min_own_pause_s, _COUPLING_STEPS
        )
        scores = scipy.special.ndtri((np.searchsorted(ranked, seconds, side="right") - 0.5) / max(1, len(seconds)))
        piece, who, kind, start, _, cut, dropped = kernels.floors(
            seconds, scores, begins, weights, draws, normals, tempo - tables.tempo, pace, habits,
            tables.holds(steadiness), tables.offset_after,
            prior.return_share, tables.shares, tables.offsets, tables.pauses, overlap, hazard,
            target, self.max_duration_s, self.min_own_pause_s,
        )  # fmt: skip
        chosen = Pieces(*(column[piece] for column in (pieces.utterance, pieces.first_word, pieces.end_word,
                                                       pieces.num_samples)))  # fmt: skip
        starts = np.rint(start * self.sample_rate_hz).astype(np.int64)
        who = who.astype(np.int64)
        missed = 0
        if self.backchannels and len(speakers) > 1:
            chosen, starts, who, kind, missed = self._listen(
                chosen, starts, who, kind, said, rows[order], speaker_of[order], len(speakers), prior, draw, chattiness
            )
        return _Planned(chosen, starts, who, kind, gains, int(cut), int(dropped) + missed)

    def _as_others(
        self, pieces: Pieces, seconds: NDArray[np.float64], begins: Ints, target: int, gains: NDArray[np.float64],
        prior: Prior, draw: np.random.Generator,
    ) -> "_Planned":  # fmt: skip
        """Decide one conversation by another simulator's turn-taking."""
        made = baselines.MODELS[self.model](seconds, begins, target, self.max_duration_s, prior, draw)
        names = ("utterance", "first_word", "end_word", "num_samples")
        chosen = Pieces(*(getattr(pieces, name)[made.piece] for name in names))
        starts = np.rint(made.start_s * self.sample_rate_hz).astype(np.int64)
        return _Planned(chosen, starts, made.who, made.kind, gains, 0, made.num_dropped)

    def _pieces(
        self, said: "_Utterances", rows: Ints, speaker_of: Ints, prior: Prior, draw: np.random.Generator
    ) -> tuple[Pieces, Ints]:
        """Return what may be said, long utterances cut at pauses between words, and by whom."""
        whole = np.full(len(rows), -1, np.int64)
        if not self.cut_above_s and not self.compress_above_s:
            return Pieces(rows, whole, whole, said.num_samples[rows]), speaker_of
        limit = (self.cut_above_s or np.inf) * self.sample_rate_hz
        silence_s = self.compress_above_s or np.inf
        utterance, first, end, length, owner = [], [], [], [], []
        lengths = np.array(prior.segment_s)
        for row, speaker in zip(rows.tolist(), speaker_of.tolist(), strict=True):
            parts = [(-1, -1, int(said.num_samples[row]))]
            if said.num_words(row) > 1 and said.num_samples[row] > limit:
                parts = said.cut(row, lengths[draw.integers(0, len(lengths), 64)], silence_s)
            elif said.longest_gap_s(row) > silence_s:
                parts = said.cut(row, np.full(64, np.inf), silence_s)
            for begin, stop, number in parts:
                utterance.append(row)
                first.append(begin)
                end.append(stop)
                length.append(number)
                owner.append(speaker)
        columns = [np.array(column, np.int64) for column in (utterance, first, end, length)]
        return Pieces(*columns), np.array(owner, np.int64)

    def _listen(
        self, chosen: Pieces, starts: Ints, who: Ints, kind: NDArray[np.int8], said: "_Utterances", rows: Ints,
        speaker_of: Ints, num_speakers: int, prior: Prior, draw: np.random.Generator, chattiness: float,
    ) -> tuple[Pieces, Ints, Ints, NDArray[np.int8], int]:  # fmt: skip
        """Add what listeners say meanwhile."""
        words, owner = said.word_spans(rows, speaker_of)
        timed = said.word_begins[rows + 1] > said.word_begins[rows]
        brief = np.flatnonzero(~timed & (said.num_samples[rows] <= LONGEST_BACKCHANNEL_S * self.sample_rate_hz))
        whole = np.stack([rows[brief], said.num_samples[rows[brief]] / self.sample_rate_hz], axis=1)
        seats = np.arange(num_speakers + 1)
        limit = 4 * len(starts) + 8
        first, end, speaker, _, begin, _, missed = kernels.backchannels(
            who, kind, starts / self.sample_rate_hz, chosen.num_samples / self.sample_rate_hz, num_speakers,
            draw.random((limit, 12)), np.array(prior.backchannels_per_host) * chattiness,
            np.array(prior.backchannels_after), hosts_dispersion(prior), np.array(prior.backchannel_s),
            np.array(prior.backchannel_onset),
            words, np.searchsorted(owner, seats), whole, np.searchsorted(speaker_of[brief], seats),
            self.min_own_pause_s, limit,
        )  # fmt: skip
        parts = first >= 0
        utterance = np.where(parts, words[np.maximum(first, 0) % max(1, len(words)), 0] if len(words) else -1, -1)
        utterance[~parts] = whole[end[~parts], 0]
        utterance = utterance.astype(np.int64)
        # Word numbers from the beginning of their utterance.
        order = np.concatenate([np.arange(said.word_begins[row], said.word_begins[row + 1]) for row in rows.tolist()])
        inside = order - said.word_begins[words[:, 0].astype(np.int64)] if len(words) else order
        first_word = np.where(parts, inside[np.maximum(first, 0) % max(1, len(inside))] if len(inside) else -1, -1)
        end_word = np.where(parts, first_word + end - first, -1)
        length = np.array(
            [
                said.length(u, f, e) if f >= 0 else int(said.num_samples[u])
                for u, f, e in zip(utterance.tolist(), first_word.tolist(), end_word.tolist(), strict=True)
            ],
            np.int64,
        )
        merged = Pieces(
            np.concatenate([chosen.utterance, utterance]),
            np.concatenate([chosen.first_word, first_word]),
            np.concatenate([chosen.end_word, end_word]),
            np.concatenate([chosen.num_samples, length]),
        )
        starts = np.concatenate([starts, np.rint(begin * self.sample_rate_hz).astype(np.int64)])
        kinds = np.concatenate([kind, np.full(len(first), kernels.BACKCHANNEL, np.int8)])
        return merged, starts, np.concatenate([who, speaker]), kinds, int(missed)


@dataclass(frozen=True)
class _Tables:
    """A prior as the compiled loops take it."""

    offsets: NDArray[np.float64]
    pauses: NDArray[np.float64]
    hold_after: NDArray[np.float64]
    offset_after: NDArray[np.float64]
    shares: NDArray[np.float64]
    tempo: float
    """What is taken off conversations' tempo: `tempo_of_switches`."""

    @staticmethod
    def of(prior: Prior, compress_above_s: float) -> "_Tables":
        """Return the tables, long silences compressed where that is asked for."""
        offsets, pauses = np.array(prior.offset_s), np.array(prior.pause_s)
        if compress_above_s:
            offsets, pauses = compressed(offsets, compress_above_s), compressed(pauses, compress_above_s)
        correlation = 2 * np.sin(np.pi / 6 * prior.pause_length_correlation)
        shares = [prior.conversation_share, prior.speaker_share, prior.serial, prior.pause_conversation_share]
        return _Tables(
            offsets, pauses, np.array(prior.hold_after), np.array(prior.offset_after), np.array([*shares, correlation]),
            tempo_of_switches(prior),
        )  # fmt: skip

    def holds(self, steadiness: float) -> NDArray[np.float64]:
        """Return the chances of a hold in a conversation whose log-odds are shifted by so much."""
        if not steadiness:
            return self.hold_after
        odds = np.log(self.hold_after / (1 - self.hold_after))
        return np.asarray(1 / (1 + np.exp(-odds - steadiness)))

    def as_prior(self, prior: Prior) -> Prior:
        """Return the prior with these offsets and pauses."""
        return replace(prior, offset_s=tuple(self.offsets.tolist()), pause_s=tuple(self.pauses.tolist()))


@dataclass(frozen=True)
class _Planned:
    """One conversation, still as numbers."""

    pieces: Pieces
    start: Ints  # samples
    who: Ints  # place in the cast
    kind: NDArray[np.int8]
    gains: NDArray[np.float64]
    num_cut: int
    num_dropped: int


class _Utterances:
    """The utterances of a batch as flat arrays."""

    def __init__(self, utterances: pa.StructArray, rate_hz: int) -> None:
        self.rate_hz = rate_hz
        self.speaker = utterances.field("speaker").to_pylist()
        self.source_hz = utterances.field("source_rate_hz").to_numpy(zero_copy_only=False).astype(np.int64)
        samples = utterances.field("source_num_samples").to_numpy(zero_copy_only=False).astype(np.int64)
        self.num_samples = (samples * rate_hz + self.source_hz // 2) // self.source_hz
        words = utterances.field("words").fill_null([])
        self.words = words.flatten()
        sizes = pc.list_value_length(words).to_numpy(zero_copy_only=False).astype(np.int64)
        self.word_begins = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])
        self.word_start = self.words.field("start_sample").to_numpy(zero_copy_only=False).astype(np.int64)
        self.word_length = self.words.field("num_samples").to_numpy(zero_copy_only=False).astype(np.int64)
        self.source_length = samples
        self._begin, self._stop = self._with_margins(sizes)

    def num_words(self, row: int) -> int:
        """Return how many words have times."""
        return int(self.word_begins[row + 1] - self.word_begins[row])

    def _with_margins(self, sizes: Ints) -> tuple[Ints, Ints]:
        """Return where each word begins and ends with its share of the pauses around it: half, at most 50 ms."""
        row = np.repeat(np.arange(len(sizes)), sizes)
        ends = self.word_start + self.word_length
        first, last = np.zeros(len(row), bool), np.zeros(len(row), bool)
        first[self.word_begins[:-1][sizes > 0]] = True
        last[self.word_begins[1:][sizes > 0] - 1] = True
        before = np.where(first, 0, np.concatenate([[0], ends[:-1]])) if len(row) else ends
        after = (
            np.where(last, self.source_length[row], np.concatenate([self.word_start[1:], [0]])) if len(row) else ends
        )
        edge = self.source_hz[row] // 20
        begin = self.word_start - np.minimum(edge, np.maximum(0, self.word_start - before) // 2)
        stop = ends + np.minimum(edge, np.maximum(0, after - ends) // 2)
        return begin, np.minimum(stop, self.source_length[row])

    def span(self, row: int, first: int, end: int) -> tuple[int, int]:
        """Return where words first..end begin and how long they last, in the source's samples, margins included."""
        low = int(self.word_begins[row])
        begin = int(self._begin[low + first])
        return begin, max(1, int(self._stop[low + end - 1]) - begin)

    def length(self, row: int, first: int, end: int) -> int:
        """Return the length of words first..end on the timeline."""
        _, samples = self.span(row, first, end)
        return resampled_length(samples, int(self.source_hz[row]), self.rate_hz)

    def longest_gap_s(self, row: int) -> float:
        """Return the longest pause between two words of an utterance; 0 where no times are known."""
        low, high = int(self.word_begins[row]), int(self.word_begins[row + 1])
        if high - low < 2:
            return 0.0
        gaps = self.word_start[low + 1 : high] - (self.word_start + self.word_length)[low : high - 1]
        return float(gaps.max()) / int(self.source_hz[row])

    def cut(self, row: int, wanted_s: NDArray[np.float64], silence_s: float) -> list[tuple[int, int, int]]:
        """Cut an utterance at the pause nearest to each wanted length, and at every pause longer than `silence_s`.

        The prior's pauses take their place. Returns words and length of each piece.
        """
        count = self.num_words(row)
        low = int(self.word_begins[row])
        starts = self.word_start[low : low + count] / self.source_hz[row]
        ends = starts + self.word_length[low : low + count] / self.source_hz[row]
        parts, first = [], 0
        for length_s in wanted_s.tolist():
            if first >= count:
                break
            after = ends[first:] - starts[first]
            gaps = np.append(starts[first + 1 :], np.inf) - ends[first:]
            # A longer pause is worth going a little further for.
            cost = (np.abs(after - length_s) if np.isfinite(length_s) else -after) - np.minimum(gaps, 0.5)
            silent = int(np.argmax(gaps > silence_s))  # the last gap is infinite: there always is one
            end = first + 1 + int(np.argmin(cost[: silent + 1]))
            parts.append((first, end, self.length(row, first, end)))
            first = end
        if first < count:
            parts.append((first, count, self.length(row, first, count)))
        return parts

    def word_spans(self, rows: Ints, speaker_of: Ints) -> tuple[NDArray[np.float64], Ints]:
        """Return utterance, start and end in seconds of every word of some utterances (W, 3), and who says it."""
        counts = self.word_begins[rows + 1] - self.word_begins[rows]
        borders = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
        picked = np.arange(borders[-1]) + np.repeat(self.word_begins[rows] - borders[:-1], counts)
        hz = np.repeat(self.source_hz[rows], counts).astype(np.float64)
        spans = np.stack([np.repeat(rows, counts), self._begin[picked] / hz, self._stop[picked] / hz], axis=1)
        return spans, np.repeat(speaker_of, counts)


_WHOLE = (
    "utterance_id", "speaker", "corpus", "audio", "byte_offset", "byte_length", "channel", "source_rate_hz",
    "gender", "language", "licence",
)  # fmt: skip


def _assemble(
    names: list[dict[str, Any]],
    planned: list[_Planned],
    utterances: pa.StructArray,
    said: _Utterances,
    config: Converse,
) -> pa.Table:
    """Build the table: columns of all turns at once."""
    rate_hz = config.sample_rate_hz
    conversation = np.repeat(np.arange(len(planned)), [len(p.start) for p in planned])
    start = _join([p.start for p in planned])
    order = np.lexsort((start, conversation))
    start = start[order]
    row, first, end, length = (
        _join([getattr(p.pieces, name) for p in planned])[order]
        for name in ("utterance", "first_word", "end_word", "num_samples")
    )
    kind = np.concatenate([np.zeros(0, np.int8), *(p.kind for p in planned)])[order]
    gain = np.concatenate([np.zeros(0), *(p.gains[p.who] for p in planned)])[order]
    borders = np.concatenate([np.zeros(1, np.int64), np.cumsum([len(p.start) for p in planned], dtype=np.int64)])

    # Offsets to the end of the floor; a backchannel's is to the end of its host, whose floor it leaves alone.
    stop = start + length
    takes = kind != kernels.BACKCHANNEL
    offset = start.copy()
    last = np.where(takes, np.arange(len(start)), -1)
    before = np.concatenate([[-1], np.maximum.accumulate(last)[:-1]]) if len(last) else last
    has = (before >= 0) & (conversation[np.maximum(before, 0)] == conversation)
    offset[has] -= stop[before[has]]
    kind = np.where((kind == kernels.GAP) & (offset < 0), kernels.OVERLAP, kind)  # rounding to samples
    kind = np.where((kind == kernels.OVERLAP) & (offset >= 0), kernels.GAP, kind)

    parts = first >= 0
    taken = utterances.take(pa.array(row))
    source_start = taken.field("source_start_sample").to_numpy(zero_copy_only=False).astype(np.int64).copy()
    source_length = said.source_length[row].copy()
    shift = np.zeros(len(row), np.int64)
    texts, normalized = taken.field("text"), taken.field("text_normalized")
    if parts.any():
        spoken = said.words.field("word").to_pylist()
        text_list, normal_list = texts.to_pylist(), normalized.to_pylist()
        for turn in np.flatnonzero(parts).tolist():
            low = int(said.word_begins[row[turn]])
            begin, samples = said.span(int(row[turn]), int(first[turn]), int(end[turn]))
            source_start[turn] += begin
            source_length[turn], shift[turn] = samples, begin
            text_list[turn] = " ".join(spoken[low + first[turn] : low + end[turn]])
            normal_list[turn] = normalize(text_list[turn])
        texts, normalized = pa.array(text_list, pa.string()), pa.array(normal_list, pa.string())

    # Words on the conversation's timeline.
    word_low = said.word_begins[row] + np.where(parts, first, 0)
    word_end = np.where(parts, said.word_begins[row] + end, said.word_begins[row + 1])
    counts = word_end - word_low
    word_borders = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
    picked = np.arange(word_borders[-1]) + np.repeat(word_low - word_borders[:-1], counts)
    turn_of = np.repeat(np.arange(len(row)), counts)
    hz = said.source_hz[row][turn_of]
    word_starts = start[turn_of] + ((said.word_start[picked] - shift[turn_of]) * rate_hz + hz // 2) // hz
    word_type = TURN.field("words").type.value_type
    words = pa.StructArray.from_arrays(
        [
            said.words.field("word").take(pa.array(picked)),
            pa.array(word_starts, pa.int64()),
            pa.array((said.word_length[picked] * rate_hz + hz // 2) // hz, pa.int64()),
        ],
        fields=list(word_type),
    )
    columns = {
        **{name: taken.field(name) for name in _WHOLE},
        "transition": pa.array(np.array(TRANSITIONS)[kind]).cast(pa.string()),
        "offset_samples": pa.array(offset),
        "start_sample": pa.array(start),
        "num_samples": pa.array(length),
        "gain_db": pa.array(gain.astype(np.float32)),
        "source_start_sample": pa.array(source_start),
        "source_num_samples": pa.array(source_length),
        "text": texts,
        "text_normalized": normalized,
        "is_part": pa.array(parts),
        "rir_id": pa.nulls(len(row), pa.string()),
        "words": pa.ListArray.from_arrays(pa.array(word_borders.astype(np.int32)), words),
    }
    turns = pa.StructArray.from_arrays([columns[field.name] for field in TURN], fields=list(TURN))

    ends = np.zeros(len(planned), np.int64)
    np.maximum.at(ends, conversation, stop)
    # By arrival: each speaker at their first turn.
    arrivals = [
        list(dict.fromkeys(row["speakers"][w] for w in p.who[np.argsort(p.start, kind="stable")]))
        for row, p in zip(names, planned, strict=True)
    ]
    number = len(planned)
    values: dict[str, Any] = {
        "conversation_id": [row["conversation_id"] for row in names],
        "origin": ["simulated"] * number,
        "split": [row["split"] for row in names],
        "seed": [row["seed"] for row in names],
        "sample_rate_hz": [rate_hz] * number,
        "num_samples": ends + rate_hz // 5,  # a fifth of a second of room after the last word
        "speakers": arrivals,
        **{name: [None] * number for name in ("recording", "room", "noise_id", "noise_audio", "snr_db")},
        "noise_start_sample": [None] * number,
        "num_clipped_offsets": [p.num_cut for p in planned],
        "num_dropped_pieces": [p.num_dropped for p in planned],
    }
    arrays = {name: pa.array(value, CONVERSATIONS.field(name).type) for name, value in values.items()}
    arrays["turns"] = pa.ListArray.from_arrays(pa.array(borders.astype(np.int32)), turns)
    return pa.table([arrays[name] for name in CONVERSATIONS.names], schema=CONVERSATIONS)


def _join(arrays: list[Ints]) -> Ints:
    return np.concatenate([np.zeros(0, np.int64), *arrays])
