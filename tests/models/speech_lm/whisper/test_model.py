"""Whisper's decoder on packs: as transformers computes it, packed as alone, decoded as recomputed."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from models.config.options import Training
from models.sequence.batch import collate
from models.sequence.documents import SegmentFeatures
from models.speech_lm.decode.decoder import Decoder
from models.speech_lm.decode.graphs import Pace
from models.speech_lm.flops import training_flops
from models.speech_lm.generate import greedy_text
from models.speech_lm.whisper.model import TextOnly
from models.training.optimizers import make_optimizers
from tests.models.support import joined
from tests.models.whisper_support import GRID, PCM, document, ids_of, load, mel_of, save_whisper

transformers = pytest.importorskip("transformers")
OURS = 55


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("whisper") / "small"
    save_whisper(path)
    return path


@pytest.fixture(scope="module")
def whisper(folder):
    return transformers.WhisperForConditionalGeneration.from_pretrained(folder).eval()


def documents(tokenizer):
    sizes = [("good day", 0.5), ("hm", 1.9), ("", 0.08), ("where is it?", 1.2)]
    return [document(seed, tokenizer, text, seconds) for seed, (text, seconds) in enumerate(sizes)]


@pytest.mark.parametrize("languages", [("en", "de"), ()])
def test_an_untrained_model_is_whisper(tmp_path, languages):
    """Its logits are transformers' for the sound padded to the window, of which the decoder hears all."""
    theirs = save_whisper(tmp_path, languages)
    model, tokenizer = load(tmp_path, encoder_window="full", language="de")
    seconds = 2.0  # the whole window of the small model
    one = document(3, tokenizer, "guten tag", seconds)
    wav = PCM.decode(np.frombuffer(one.codes, np.uint16).reshape(1280, -1), int(seconds * 16_000))
    first = ["startoftranscript", "de", "transcribe", "notimestamps"]
    words = [i - OURS for i in one.text_tokens[2:]]
    words[-1] = ids_of(tmp_path, "endoftext")[0]
    ids = torch.tensor([[*ids_of(tmp_path, *(n for n in first if languages or n in (first[0], first[3]))), *words]])
    with torch.no_grad():
        heard = theirs.model.encoder(mel_of(theirs, wav))
        wanted = theirs(encoder_outputs=heard, decoder_input_ids=ids).logits[0, -len(words) - 1 : -1]
        batch = collate([one], GRID)
        features = (SegmentFeatures(heard.last_hidden_state[0].numpy(), np.zeros(0, np.float32)),)
        given = collate([replace(one, codes=b"", features=features)], GRID)
        got, by_own_ears = (model.text_logits(model.eval().states(b))[batch.text_from] for b in (given, batch))
    torch.testing.assert_close(got[:, OURS:], wanted, rtol=1e-4, atol=2e-4)
    torch.testing.assert_close(by_own_ears[:, OURS:], wanted, rtol=1e-2, atol=2e-2)  # spectra differ in rounding
    assert wanted.std() > 1


def test_packed_equals_each_document_alone(folder):
    model, tokenizer = load(folder)
    alone = [collate([one], GRID) for one in documents(tokenizer)]
    packed = collate([joined(documents(tokenizer))], GRID)
    with torch.no_grad():
        of_each = torch.cat([model.states(batch) for batch in alone])
        together = model.states(packed)
        losses = [model(batch) for batch in alone]
        whole = model(packed)
    torch.testing.assert_close(together, of_each, rtol=1e-4, atol=1e-4)
    assert float(whole.total) == pytest.approx(sum(float(one.total) for one in losses), rel=1e-5)


def test_sound_decides_what_is_said(folder):
    model, tokenizer = load(folder)
    one = document(1, tokenizer, "good day", 1.0)
    frames = 4 * (one.num_columns - len(one.text_tokens))
    states = []
    for seed in (1, 2):
        values = np.random.default_rng(seed).standard_normal((frames, 32)).astype(np.float32)
        heard = replace(one, codes=b"", features=(SegmentFeatures(values, np.zeros(0, np.float32)),))
        with torch.no_grad():
            states.append(model.states(collate([heard], GRID))[-3:])
    assert (states[0] - states[1]).abs().max() > 0.1


def test_text_without_sound_hears_nothing_and_trains(folder):
    model, tokenizer = load(folder)
    silent, heard = document(0, tokenizer, "hm", 0), document(1, tokenizer, "good day", 1.0)
    for documents_of in ([silent], [heard], [silent, heard]):
        model.zero_grad()
        loss = model(collate([joined(documents_of)], GRID))
        loss.total.backward()
        assert torch.isfinite(loss.total)
        assert all(p.grad is not None for p in model.parameters())
    with torch.no_grad():
        alone = model.states(collate([silent], GRID))
        beside = model.states(collate([joined([heard, silent])], GRID))[-len(alone) :]
    torch.testing.assert_close(alone, beside, rtol=1e-4, atol=1e-4)


def test_stored_frames_give_the_same_values_and_gradients_as_the_encoder_in_the_step(folder):
    model, tokenizer = load(folder)
    batch = collate([joined(documents(tokenizer))], GRID)
    with torch.no_grad():
        frames, columns = model.front_end.hear(batch.audio, batch.audio_columns)
    packs = joined(documents(tokenizer))
    pieces = torch.split(frames, [4 * number for number in columns])
    features = tuple(SegmentFeatures(piece.numpy(), np.zeros(0, np.float32)) for piece in pieces)
    stored = collate([replace(packs, codes=b"", features=features)], GRID)
    found = []
    for one in (batch, stored):
        model.zero_grad()
        loss = model(one)
        loss.total.backward()
        found.append((loss.total.detach(), {name: p.grad.clone() for name, p in model.named_parameters()}))
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("slots", [1, 3])
@pytest.mark.parametrize("pace", [Pace(), Pace(look_every=4, in_buckets=True)])
def test_decoding_with_a_cache_equals_reading_everything_again(folder, slots, pace):
    model, tokenizer = load(folder)
    prompts = [document(seed, tokenizer, seconds=s, answer=False) for seed, s in enumerate((0.5, 1.9, 0.08, 1.2))]
    answers = greedy_text(
        model, prompts, GRID, end=tokenizer.END, max_tokens=12, slots=slots, decoder=Decoder(model, pace)
    )
    for prompt, answer in zip(prompts, answers, strict=True):
        tokens = list(prompt.text_tokens)
        for token in [*answer, tokenizer.END][:12]:
            added = len(tokens) - 2
            columns = prompt.num_columns - 2
            longer = replace(
                prompt,
                num_columns=prompt.num_columns + added,
                cu_seqlens=np.array([0, prompt.num_columns + added], np.int32),
                segments=np.array([[0, 0, 1], [1, 1, columns], [0, 1 + columns, 1 + added]], np.int32),
                text_tokens=np.array(tokens, np.int32),
            )
            with torch.no_grad():
                logits = model.text_logits(model.states(collate([longer], GRID))[-1])
            logits[0] = -torch.inf
            assert int(logits.argmax()) == token
            tokens.append(token)
    assert len({tuple(answer) for answer in answers}) > 1


def test_no_answer_is_longer_than_the_positions(folder):
    model, tokenizer = load(folder)
    prompt = document(0, tokenizer, answer=False)
    with torch.no_grad():
        model.text_embedding.weight[tokenizer.END] = 0.0
        model.text_embedding.weight[OURS:] += 5 * torch.randn(32)
    (answer,) = greedy_text(model, [prompt], GRID, end=tokenizer.END, max_tokens=500)
    assert len(answer) <= 64 - 4


def test_a_document_longer_than_the_positions_is_refused(folder):
    model, tokenizer = load(folder)
    with pytest.raises(ValueError, match=r"86 tokens.*64 positions"):
        model.check(collate([document(0, tokenizer, "x" * 80)], GRID))
    model.check(collate([joined(documents(tokenizer))], GRID))


def test_times_are_tokens_and_words_begin_with_their_space(folder):
    _, tokenizer = load(folder)
    ids = tokenizer.encode("[1.23]good day[30.00]")
    assert tokenizer.decode(ids) == "[1.22] good day[30.00]" or tokenizer.decode(ids) == "[1.24] good day[30.00]"
    assert len(ids) == 2 + len(" good day")
    assert max(ids) == tokenizer.vocab_size - 1
    assert tokenizer.decode(tokenizer.encode("good day")) == " good day"


def test_all_of_whisper_trains_at_the_rate_of_what_is_pretrained(folder):
    model, _ = load(folder)
    (optimizer,) = make_optimizers(model, Training(lr=1e-3, pretrained_lr=1e-5))
    shares = {id(p): group["share"] for group in optimizer.param_groups for p in group["params"]}
    assert {shares[id(p)] for p in model.parameters()} == {0.01}


def test_text_only_keeps_the_order_and_counts_the_prefix(folder):
    _, tokenizer = load(folder)
    batch = collate([joined(documents(tokenizer))], GRID)
    text = TextOnly.of(batch, (7, 8))
    for number, one in enumerate(documents(tokenizer)):
        start, end = text.cu_seqlens[number : number + 2].tolist()
        assert text.ids[start:end].tolist() == [7, 8, *one.text_tokens.tolist()]
        assert text.positions[start:end].tolist() == list(range(end - start))
    assert text.cu_frames.diff().tolist() == [
        4 * (one.num_columns - len(one.text_tokens)) for one in documents(tokenizer)
    ]


def test_operations_are_those_that_torch_counts(folder):
    from torch.utils.flop_counter import FlopCounterMode

    model, tokenizer = load(folder)
    one = document(0, tokenizer, "good day", 1.2)
    features = (SegmentFeatures(np.zeros((4 * 15, 32), np.float32), np.zeros(0, np.float32)),)
    batch = collate([replace(one, codes=b"", features=features)], GRID)
    with FlopCounterMode(display=False) as counter:
        model.states(batch).sum().backward()
    counts = counter.get_flop_counts()["Global"]
    matrices = counts[torch.ops.aten.addmm] + counts[torch.ops.aten.mm]  # attention's gradient is not counted on a CPU
    text = len(one.text_tokens) + 2
    attention = 2 * 12 * 32 * (text * (text + 1) // 2 + text * 60)
    loss = 6 * 32 * model.vocabulary.text_size * len(batch.text_from)
    found = training_flops(model.shape, model.vocabulary, batch)
    assert found - attention - loss == pytest.approx(matrices, rel=0.02)
