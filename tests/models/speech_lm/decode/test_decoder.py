"""Decoding in slots: what the plain way makes, whatever the slots, in steps that a GPU can record and repeat."""

import warnings
from dataclasses import replace
from unittest import mock

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from models.layouts import LAYOUTS
from models.sequence.batch import collate
from models.sequence.grammar import ArrivalGrammar, TimedGrammar
from models.sequence.grammar_table import GrammarTable
from models.sequence.tokenizer import ByteTokenizer
from models.speech_lm.decode.decoder import Decoder
from models.speech_lm.decode.graphs import Pace, pace_of
from models.speech_lm.decode.sampling import Sampling
from models.speech_lm.generate import generate_audio, greedy_text
from models.speech_lm.model import SpeechLM
from tests.models.speech_lm.decode import growing
from tests.models.speech_lm.test_generate import END, nothing, prompt
from tests.models.support import SHAPE, TEXT_SIZE, grid_spec, model_for, vocabulary_of

T = ByteTokenizer()


class FakeCapture:
    """Counts captures, and repeats what was captured."""

    def __init__(self, fails=False):
        self.captured, self.replayed, self.fails = 0, 0, fails

    def __call__(self, function):
        if self.fails:
            raise RuntimeError("operation not permitted when stream is capturing\nat line 1")
        self.captured += 1

        def replay():
            self.replayed += 1
            function()

        return replay


def as_on_a_gpu(capture=None, look_every=3):
    return Pace(look_every=look_every, in_buckets=True, capture=capture)


def lively(grid, seed=0, scale=4.0, **shape):
    """A model whose answers depend on their prompts and end at random lengths."""
    model = model_for(grid, seed, **shape)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(scale if parameter.dim() > 1 else 1.0)
    return model


def random_prompts(number, longest=40, seed=0):
    rng = np.random.default_rng(seed)
    return [prompt(rng.integers(7, TEXT_SIZE, rng.integers(1, longest)).tolist()) for _ in range(number)]


PACES = {"cpu": Pace(), "gpu": as_on_a_gpu(), "gpu, captured": as_on_a_gpu(FakeCapture(), look_every=16)}


class Until:
    """A grammar of answers of one length."""

    carried = 0

    def __init__(self, length):
        classes = torch.zeros(TEXT_SIZE, dtype=torch.int64)
        classes[9] = 1  # the end
        after = torch.arange(1, length + 2).clamp(max=length)[:, None].repeat(1, 2)
        reach = torch.tensor([[0, -1]]).repeat(length + 1, 1)
        reach[length] = torch.tensor([-1, 0])
        self._table = GrammarTable(classes, torch.full((2,), -1), after, reach, torch.full_like(reach, -1))

    def table(self):
        return self._table

    def start(self):
        return torch.tensor([[0, 0, 0]])

    def mask(self, state):
        return self._table.mask(state)[0]

    def advance(self, state, token):
        return self._table.advance(state, torch.tensor([token]))


@pytest.fixture(scope="module")
def answered():
    """A model, prompts, grammars of lengths, and what the plain way answers to each alone."""
    model, prompts = lively(grid_spec(), seed=2), random_prompts(16)
    grammars = [Until(length) for length in np.random.default_rng(0).integers(0, 40, 16).tolist()]
    alone = [
        growing.greedy_text(model, [one], grid_spec(), end=9, max_tokens=40, grammars=[grammar])[0]
        for one, grammar in zip(prompts, grammars, strict=True)
    ]
    return model, prompts, grammars, alone


@pytest.mark.parametrize(("pace", "share"), [("cpu", 0.8), ("gpu", 0.9), ("gpu, captured", 2.0)])
def test_continuous_batching_answers_as_each_alone_in_fewer_steps(answered, pace, share):
    model, prompts, grammars, alone = answered
    lengths = [len(answer) for answer in alone]
    decoder = Decoder(model, PACES[pace])
    options = {"end": 9, "max_tokens": 40, "grammars": grammars, "slots": 4, "decoder": decoder}
    assert greedy_text(model, prompts, grid_spec(), **options) == alone
    in_turn = sum(max(lengths[start : start + 4]) for start in range(0, len(prompts), 4))
    assert sum(lengths) / 4 <= decoder.steps < share * in_turn  # looking seldom costs a few steps an answer


def test_on_a_cpu_every_bit_is_that_of_the_growing_cache():
    grid = grid_spec()
    model = lively(grid, seed=2).float()
    prompts = random_prompts(5)
    seen = {}
    for way in ("old", "new"):
        seen[way] = []

        def logits(hidden, kept=seen[way]):
            kept.append(hidden.clone())
            return torch.nn.functional.linear(hidden, model.text_weight)

        model.text_logits = logits
        if way == "old":
            answers = growing.greedy_text(model, prompts, grid, end=-1, max_tokens=30)
        else:
            assert greedy_text(model, prompts, grid, end=-1, max_tokens=30) == answers
    assert len(seen["old"]) == len(seen["new"]) == 30
    assert all(torch.equal(a, b) for a, b in zip(seen["old"], seen["new"], strict=True))


class HostGrammar:
    """A grammar without a table."""

    def __init__(self, inner):
        self.start, self.mask, self.advance = inner.start, inner.mask, inner.advance


@pytest.mark.parametrize("wrap", [lambda grammar: grammar, HostGrammar], ids=["by table", "by the host"])
def test_grammars_hold_in_slots_as_they_do_alone(wrap):
    grid = grid_spec()
    model = SpeechLM(SHAPE, replace(vocabulary_of(grid), text_size=T.vocab_size)).initialize(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4.0 if parameter.dim() > 1 else 1.0)
    prompts = random_prompts(9)
    grammars = [(ArrivalGrammar(T, n % 3), TimedGrammar(T, 3.0, n % 2))[n % 2] for n in range(9)]
    wanted = [
        growing.greedy_text(model, [one], grid, end=T.END, max_tokens=25, grammars=[grammar])[0]
        for one, grammar in zip(prompts, grammars, strict=True)
    ]
    free = greedy_text(model, prompts, grid, end=T.END, max_tokens=25)
    assert free != wanted
    wrapped = [wrap(one) for one in grammars]
    decoder = Decoder(model, as_on_a_gpu(FakeCapture()))
    for _ in range(2):  # the second time in the slots of the first
        made = greedy_text(model, prompts, grid, end=T.END, max_tokens=25, grammars=wrapped, slots=3, decoder=decoder)
        assert made == wanted


@pytest.mark.parametrize("pace", PACES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_audio_is_what_the_plain_way_draws(layout, pace):
    grid = grid_spec(layout)
    model = lively(grid, seed=1, scale=3.0)
    prompts = random_prompts(4, longest=9)
    options = {"max_frames": 8, "end": END, "pad_weight": 0.02}
    for sampling in (Sampling(seed=3, repetition_window=3), Sampling(temperature=0, repetition_window=0)):
        wanted = growing.generate_audio(model, prompts, grid, sampling=sampling, **options)
        for slots in (4, 2):
            made = generate_audio(
                model,
                prompts,
                grid,
                given=[nothing()] * 4,
                sampling=sampling,
                slots=slots,
                decoder=Decoder(model, PACES[pace]),
                **options,
            )
            assert all(np.array_equal(a, b) for a, b in zip(made, wanted, strict=True))


class Watch(TorchDispatchMode):
    """Forbids what waits for the device; remembers operations and shapes, as a captured graph fixes them."""

    WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "_unique", "bincount", "is_nonzero")

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        name = str(function)
        assert not any(wait in name for wait in self.WAITS), f"{name} waits for the device"
        if name.startswith(("aten.index.", "aten.index_put")):
            masks = [one for one in arguments[1] if one is not None and one.dtype == torch.bool]
            assert not masks, f"{name} by a mask waits for the device"
        out = function(*arguments, **(options or {}))
        made = out if isinstance(out, (tuple, list)) else (out,)
        self.seen.append((name, *(tuple(one.shape) for one in made if isinstance(one, torch.Tensor))))
        return out


def watched(step, number):
    """What each of some steps does."""
    found = []
    with torch.no_grad():
        for _ in range(number):
            with Watch() as watch, mock.patch.multiple(torch.Tensor, tolist=waits, cpu=waits, numpy=waits, item=waits):
                step()
            found.append(watch.seen)
    return found


def waits(*_):
    raise AssertionError("this waits for the device")


def slots_of(decode):
    """The slots that a call decodes in, kept running by a capture that only looks."""
    kept = []

    class Spy:
        def __call__(self, function):
            if not kept:
                kept.append(function)
            return function

    decode(as_on_a_gpu(Spy()))
    return kept[0]


@pytest.mark.parametrize("kind", ["text", "grammar", *LAYOUTS])
def test_a_step_has_fixed_shapes_and_waits_for_nothing(kind):
    grid = grid_spec(kind if kind in LAYOUTS else "parallel")
    model = SpeechLM(SHAPE, replace(vocabulary_of(grid), text_size=T.vocab_size)).initialize(0)
    prompts = random_prompts(3)

    def decode(pace):
        decoder = Decoder(model, pace)
        if kind in LAYOUTS:
            generate_audio(
                model, prompts, grid, given=[nothing()] * 3, max_frames=9, end=END, pad_weight=1e-30, decoder=decoder
            )
            return
        grammars = [TimedGrammar(T, 9.0), ArrivalGrammar(T), ArrivalGrammar(T)] if kind == "grammar" else None
        greedy_text(model, prompts, grid, end=-1, max_tokens=12, grammars=grammars, decoder=decoder)

    step = slots_of(decode)
    found = watched(step, 4)
    assert len(found[0]) > 50
    assert found[0] == found[1] == found[2] == found[3]


def test_the_plain_way_would_be_found_out():
    grid = grid_spec()
    model = model_for(grid)
    _, cache = growing.prefill(model, collate(random_prompts(2), grid), 9)
    tokens = torch.zeros(2, dtype=torch.int64)
    with pytest.raises(AssertionError, match="waits"):
        watched(lambda: growing.step(model, tokens, cache), 1)


def test_reading_in_a_step_would_be_found_out():
    for read in (lambda x: x.tolist(), lambda x: x.cpu(), lambda x: x.item(), bool, lambda x: x[x > 0]):
        with pytest.raises(AssertionError, match="waits"):
            watched(lambda read=read: read(torch.ones(1)), 1)


def test_nothing_is_allocated_anew_from_step_to_step():
    grid = grid_spec()
    model = model_for(grid)
    decoder = Decoder(model, as_on_a_gpu(FakeCapture()))
    prompts = random_prompts(3)
    greedy_text(model, prompts, grid, end=-1, max_tokens=12, decoder=decoder)
    slots = decoder._kept.slots

    def places():
        cache = slots.cache
        tensors = [slots.tokens, slots.counts, slots.running, slots.answers, cache.lengths, *cache.keys, *cache.values]
        return [(one.data_ptr(), one.shape) for one in tensors]

    before = places()
    with torch.no_grad():
        slots.step(64)
    assert places() == before
    greedy_text(model, random_prompts(3, seed=1), grid, end=-1, max_tokens=12, decoder=decoder)
    assert decoder._kept.slots is slots
    assert places() == before


def test_few_steps_are_captured_and_all_others_repeated():
    grid = grid_spec()
    model = lively(grid, seed=2)
    capture = FakeCapture()
    decoder = Decoder(model, as_on_a_gpu(capture))
    options = {"end": -1, "max_tokens": 300, "slots": 3, "decoder": decoder}
    greedy_text(model, random_prompts(3), grid, **options)
    assert decoder.steps == 299
    assert capture.captured == 4  # windows of 128, 192, 256 and 384 columns
    assert capture.replayed == 299 - 4  # the first step in each loads its kernels
    greedy_text(model, random_prompts(3, seed=1), grid, **options)
    assert capture.captured == 4
    assert capture.replayed == 2 * 299 - 4


def test_without_captures_decoding_goes_on_with_one_warning():
    grid = grid_spec()
    model = lively(grid, seed=2)
    prompts = random_prompts(4)
    wanted = greedy_text(model, prompts, grid, end=9, max_tokens=60)
    decoder = Decoder(model, as_on_a_gpu(FakeCapture(fails=True)))
    with pytest.warns(UserWarning, match="without CUDA graphs: RuntimeError: operation not permitted") as given:
        assert greedy_text(model, prompts, grid, end=9, max_tokens=60, decoder=decoder) == wanted
    assert len(given) == 1
    assert "\n" not in str(given[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        greedy_text(model, prompts, grid, end=9, max_tokens=60, decoder=decoder)


needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, to capture graphs of steps")


@needs_cuda
@pytest.mark.parametrize("kind", ["text", *LAYOUTS])
def test_captured_steps_make_what_plain_ones_make_on_a_gpu(kind):
    grid = grid_spec(kind if kind in LAYOUTS else "parallel")
    model = lively(grid, seed=2, dtype=torch.float32).cuda()
    prompts = random_prompts(9)
    made = []
    for pace in (replace(pace_of("cuda"), capture=None), pace_of("cuda")):
        decoder = Decoder(model, pace)
        options = {"end": 9, "slots": 4, "decoder": decoder}
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="decoding without CUDA graphs")
            if kind == "text":
                made.append(greedy_text(model, prompts, grid, max_tokens=60, **options))
            else:
                options |= {"given": [nothing()] * 9, "max_frames": 20, "sampling": Sampling(seed=1)}
                made.append([one.tolist() for one in generate_audio(model, prompts, grid, **options)])
    assert made[0] == made[1]
    assert any(made[0])
