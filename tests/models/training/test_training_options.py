"""What training can be told: precision, sharding, running means, bad steps, preemption; each against plain training."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from models.config.header import steps
from models.config.options import Training
from models.kernels.loss import full_cross_entropy, linear_cross_entropy
from models.sequence.batch import collate
from models.speech_lm.compiled import bucket, in_a_bucket
from models.speech_lm.flops import training_flops
from models.speech_lm.model import SpeechLM
from models.training import checkpoint
from models.training.guard import StepGuard
from models.training.metrics import read_metrics
from models.training.muon import Muon
from models.training.optimizers import make_optimizers
from models.training.order import Span
from tests.models.support import (
    SHAPE,
    Source,
    document,
    grid_spec,
    header,
    joined,
    model_for,
    train_flat,
    vocabulary_of,
)
from tests.models.training.test_training import CONFIG, GRID, _free_port, losses, packs, run


def changed(**options):
    return replace(CONFIG, **options)


@pytest.mark.parametrize("z_weight", [0.0, 1e-2])
def test_loss_and_gradients_are_those_of_all_logits_at_once(z_weight):
    torch.manual_seed(0)
    hidden = torch.randn(37, 12, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(33, 12, dtype=torch.float64, requires_grad=True)
    targets, weights = torch.randint(0, 12, (37, 3)), torch.rand(37, 3, dtype=torch.float64)  # 11 is ignored
    ours = linear_cross_entropy(hidden, weight, targets, weights, 11, z_weight, chunk=8)
    plain = full_cross_entropy(hidden, weight, targets, weights, 11, z_weight)
    torch.testing.assert_close(ours, plain)
    grads = [torch.autograd.grad(loss * 1.7, (hidden, weight)) for loss in (ours, plain)]
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b)
    assert torch.autograd.gradcheck(
        lambda h, w: linear_cross_entropy(h, w, targets, weights, 11, z_weight, chunk=8), (hidden, weight)
    )


def test_no_rows_make_no_loss():
    grid = grid_spec()
    model = model_for(grid)
    silent = document(grid, 3, num_frames=1)  # nothing of its audio is predicted
    loss = model(collate([silent], grid))
    loss.total.backward()
    assert float(loss.audio_weight) == float(loss.audio_total.detach()) == 0.0
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("how", ["cheap", "all"])
def test_blocks_done_again_change_nothing(tmp_path, how):
    run(tmp_path / "kept")
    run(tmp_path / "again", changed(recompute=how))
    assert losses(tmp_path / "kept") == losses(tmp_path / "again")


@pytest.fixture
def eager_optimizer():
    """An optimizer that is compiled for each shape is run as it is written: compiling takes a minute."""
    pytest.importorskip("torchao", reason="pip install 'hubbub[lowbit]'")
    torch.compiler.set_stance("force_eager")
    yield
    torch.compiler.set_stance("default")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("eager_optimizer")
def test_moments_in_8_bits_learn_and_go_on_as_if_never_stopped(tmp_path):
    wide = replace(header(GRID), shape=replace(SHAPE, dim=64, ffn_dim=96))

    def run_wide(folder, config, **options):
        model = model_for(GRID, dtype=torch.float32, dim=64, ffn_dim=96)
        train_flat(model, Source(packs(), (4, 5)), GRID, config, seed=7, folder=folder, header=wide, **options)
        return model

    config = changed(optimizer="adamw8bit", steps=12, checkpoint_every=5)
    whole = run_wide(tmp_path / "whole", config)
    run_wide(tmp_path / "plain", replace(config, optimizer="adamw"))
    assert losses(tmp_path / "whole") != losses(tmp_path / "plain")
    assert losses(tmp_path / "whole") == pytest.approx(losses(tmp_path / "plain"), rel=3e-2)

    def stop(record):
        if record.step == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_wide(tmp_path / "cut", config, on_step=stop)
    cut = run_wide(tmp_path / "cut", config)
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    for one, other in zip(cut.parameters(), whole.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("eager_optimizer")
def test_moments_in_8_bits_take_a_quarter_of_the_memory():
    def held(kind):
        model = model_for(GRID, dtype=torch.float32, dim=128, ffn_dim=256)
        (optimizer,) = make_optimizers(model, Training(optimizer=kind))
        model(collate(packs()[:1], GRID)).total.backward()
        optimizer.step()
        found = 0
        for state in optimizer.state.values():
            for value in state.values():
                parts = [getattr(value, name) for name in ("codes", "scale") if hasattr(value, name)] or [value]
                found += sum(part.numel() * part.element_size() for part in parts)
        return found

    assert held("adamw8bit") < 0.3 * held("adamw")


class Products(TorchDispatchMode):
    """Counts the products of the weights, and elementwise work of the norms."""

    def __init__(self):
        super().__init__()
        self.products = self.norms = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.__name__.partition(".")[0]
        self.products += name in ("mm", "addmm")
        self.norms += name == "rsqrt_"
        return func(*args, **(kwargs or {}))


def test_what_is_cheap_is_computed_again_and_no_product():
    batch, counts = collate(packs()[:1], GRID), {}
    for how in ("none", "cheap", "all"):
        model = model_for(GRID, dtype=torch.float32)
        model.recompute = how
        with Products() as seen:
            model(batch).total.backward()
        counts[how] = seen
    assert counts["none"].products == counts["cheap"].products < counts["all"].products
    assert counts["none"].norms < counts["cheap"].norms == counts["all"].norms


@pytest.mark.parametrize("prompts", ["causal", "both"])
def test_a_batch_padded_to_a_bucket_is_the_batch(prompts):
    grid = grid_spec()
    batch = collate([joined([document(grid, 1), document(grid, 2)])], grid)
    assert bucket(len(batch.text)) == 128 > len(batch.text)
    found = []
    for one in (batch, in_a_bucket(batch, "graphs")):
        model = model_for(grid, dtype=torch.float64, prompt_attention=prompts)
        loss = model(one)
        loss.total.backward()
        found.append([loss.total.detach(), loss.weight, *(p.grad for p in model.parameters())])
    assert len(one.text) == 128
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)
    assert in_a_bucket(batch, "blocks") is batch


def test_lengths_fall_into_few_buckets():
    lengths = range(1, 40_000, 7)
    assert all(n <= bucket(n) <= max(128, 1.125 * n) and bucket(bucket(n)) == bucket(n) for n in lengths)
    assert len({bucket(n) for n in lengths}) < 80
    assert len({bucket(n) for n in range(7_700, 8_193)}) == 1  # packs that are nearly full have one length


@pytest.mark.filterwarnings("ignore")
def test_products_in_8_bits_round_and_learn(tmp_path):
    pytest.importorskip("torchao", reason="pip install 'hubbub[lowbit]'")
    run(tmp_path / "whole")
    run(tmp_path / "half", changed(precision="bf16"))
    run(tmp_path / "eighth", changed(precision="fp8"))
    assert losses(tmp_path / "eighth") != losses(tmp_path / "half")
    assert losses(tmp_path / "eighth") == pytest.approx(losses(tmp_path / "whole"), rel=5e-2)
    model, _, _ = checkpoint.load(tmp_path / "eighth/step-000010")
    assert all(parameter.dtype is torch.float32 for parameter in model.parameters())


def test_bf16_learns_what_float32_does(tmp_path):
    run(tmp_path / "whole")
    run(tmp_path / "half", changed(precision="bf16"))
    assert losses(tmp_path / "half") == pytest.approx(losses(tmp_path / "whole"), rel=2e-2)
    model, _, _ = checkpoint.load(tmp_path / "half/step-000010")
    assert all(parameter.dtype is torch.float32 for parameter in model.parameters())


def test_muon_makes_torchs_steps_without_its_rounding():
    torch.manual_seed(0)
    start, gradients = torch.randn(12, 20), [torch.randn(12, 20) for _ in range(4)]
    found = []
    for kind in (torch.optim.Muon, Muon):
        parameter = torch.nn.Parameter(start.clone())
        optimizer = kind([parameter], lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
        for gradient in gradients:
            parameter.grad = gradient.clone()
            optimizer.step()
        found.append(parameter.detach())
    moved = [one - start for one in found]
    apart = (moved[0] - moved[1]).norm() / moved[0].norm()  # bfloat16 on torch's side
    assert apart < 0.02


def test_muon_goes_on_as_if_never_stopped(tmp_path):
    config = changed(optimizer="muon", steps=16, checkpoint_every=5, lr=2e-2)
    run(tmp_path / "whole", config)
    run(tmp_path / "adamw", replace(config, optimizer="adamw"))
    assert np.mean(losses(tmp_path / "whole")[-5:]) < 0.9 * np.mean(losses(tmp_path / "whole")[:5])
    assert losses(tmp_path / "whole")[2] != losses(tmp_path / "adamw")[2]

    def stop(record):
        if record.step == 12:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", config, on_step=stop)
    run(tmp_path / "cut", config)
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    names = [tmp_path / f"{which}/step-000016/model.safetensors" for which in ("whole", "cut")]
    assert names[0].read_bytes() == names[1].read_bytes()
    with pytest.raises(ValueError, match="use adamw"):
        changed(optimizer="muon", shard="full")


def test_the_running_mean_is_what_is_kept_for_use(tmp_path):
    run(tmp_path / "plain", changed(checkpoint_every=1, keep_checkpoints=20))
    run(tmp_path / "mean", changed(ema_decay=0.8))
    assert losses(tmp_path / "plain") == losses(tmp_path / "mean")
    mean = checkpoint.load(tmp_path / "plain/step-000000")[0].state_dict()
    for step in range(1, 11):
        weights = checkpoint.load(tmp_path / f"plain/step-{step:06d}")[0].state_dict()
        mean = {name: torch.lerp(mean[name], weights[name], 1 - min(0.8, step / (step + 9))) for name in mean}
    used = checkpoint.load(tmp_path / "mean/step-000010")[0].state_dict()
    raw = checkpoint.load(tmp_path / "mean/step-000010", raw=True)[0].state_dict()
    for name, value in mean.items():
        torch.testing.assert_close(used[name], value, rtol=1e-5, atol=1e-7)
        assert torch.equal(raw[name], weights[name])


def test_a_short_training_keeps_little_of_the_initial_weights_in_its_running_mean(tmp_path):
    run(tmp_path, changed(ema_decay=0.999))
    used = checkpoint.load(tmp_path / "step-000010")[0].state_dict()
    last = checkpoint.load(tmp_path / "step-000010", raw=True)[0].state_dict()
    first = checkpoint.load(tmp_path / "step-000000")[0].state_dict()

    def distance(one, other):
        return float(sum((one[name] - other[name]).float().norm() ** 2 for name in one)) ** 0.5

    assert distance(used, last) < 0.5 * distance(first, last)


def test_a_resumed_running_mean_is_the_uninterrupted_one(tmp_path):
    run(tmp_path / "whole", changed(ema_decay=0.9))

    def stop(record):
        if record.step == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", changed(ema_decay=0.9), on_step=stop)
    run(tmp_path / "cut", changed(ema_decay=0.9))
    for name in ("model", "raw"):
        paths = [tmp_path / f"{which}/step-000010/{name}.safetensors" for which in ("whole", "cut")]
        assert paths[0].read_bytes() == paths[1].read_bytes()


def _poisoned(at):
    """Packs of which one makes a gradient that is no number: its loss weights are infinite."""
    made = packs()
    made[at] = replace(made[at], loss_weights=np.full_like(made[at].loss_weights, np.inf))
    return Source(made, (4, 5))


def test_bad_steps_are_left_out_and_written_down(tmp_path):
    run(tmp_path, changed(on_bad_step="skip"), source=_poisoned(3))
    records = read_metrics(tmp_path / "metrics.jsonl")
    noted = [json.loads(line) for line in (tmp_path / "bad_steps.jsonl").read_text().splitlines()]
    assert [r.step for r in records if r.skipped] == [one["step"] for one in noted] != []
    assert all("p3" in one["packs"] for one in noted)
    assert all(np.isfinite(r.loss) for r in records if not r.skipped)
    weights = checkpoint.load(tmp_path / "step-000010")[0].state_dict()
    assert all(tensor.isfinite().all() for tensor in weights.values())
    with pytest.raises(FloatingPointError, match="p3"):
        run(tmp_path / "stops", source=_poisoned(3))


def test_a_spike_is_told_from_what_is_usual():
    judge = StepGuard(5.0, [])
    assert [judge.fault(1.0, 1.0 + i % 3) for i in range(30)] == [None] * 30
    assert "usually 2" in judge.fault(1.0, 11.0)
    assert judge.fault(1.0, 9.0) is None
    assert "nan" in judge.fault(1.0, float("nan"))


def test_before_a_machine_is_taken_away_a_checkpoint_is_written_and_training_goes_on(tmp_path):
    run(tmp_path / "whole")
    asked = itertools.count(1)

    def stop(record):
        if record.step == 7:  # the machine is gone
            raise KeyboardInterrupt

    config = changed(checkpoint_every=10)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", config, should_save=lambda: next(asked) == 5, on_step=stop)
    assert steps(tmp_path / "cut") == [0, 5]
    source = Source(packs(), (4, 5))
    run(tmp_path / "cut", config, source=source)
    assert len(source.read) == 5 * 4
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")


def test_the_best_checkpoints_are_kept_beside_the_newest(tmp_path):
    config = changed(steps=12, checkpoint_every=2, keep_checkpoints=1, keep_best=2)
    run(tmp_path, config)
    records = read_metrics(tmp_path / "metrics.jsonl")
    before = {step: np.mean([r.loss for r in records if step - 2 < r.step <= step]) for step in range(2, 13, 2)}
    best = sorted(before, key=before.get)[:2]
    assert set(steps(tmp_path)) == {0, 12, *best}


def test_weights_of_streams_scale_their_losses():
    grid = grid_spec()
    model = model_for(grid)
    batch = collate([joined([document(grid, seed) for seed in range(4)])], grid)
    one = [model(batch, stream_weights=torch.eye(4)[k].double()) for k in range(4)]
    whole = model(batch)
    assert float(sum(loss.audio_total for loss in one).detach()) == pytest.approx(float(whole.audio_total.detach()))
    assert float(sum(loss.audio_weight for loss in one)) == pytest.approx(float(whole.audio_weight))


def test_tags_of_speakers_count_as_often_as_told():
    from models.sequence.tokenizer import ByteTokenizer

    batch = collate([document(GRID, 1, num_text=6)], GRID)
    targets = torch.tensor(
        [ByteTokenizer.FIRST_SPEAKER + 2, 100, ByteTokenizer.END, ByteTokenizer.FIRST_SPEAKER, 60, 55]
    )
    weighed = replace(batch, text_targets=targets).with_tag_weight(3.0)
    assert weighed.text_weights.tolist() == [3.0, 1.0, 1.0, 3.0, 1.0, 1.0]


@pytest.mark.parametrize("tie_text", [True, False])
@pytest.mark.parametrize("lora_rank", [0, 2])
def test_rows_of_text_that_low_rank_updates_leave_alone_stay_and_pads_row_stays_zero(tmp_path, tie_text, lora_rank):
    vocabulary = replace(vocabulary_of(GRID), text_size=80)
    shape = replace(SHAPE, tie_text=tie_text, lora_rank=lora_rank)
    model = SpeechLM(shape, vocabulary).initialize(0)
    before, head = model.text_table.detach().clone(), model.text_weight.detach().clone()
    config = Training(steps=3, packs_per_step=2, packs_per_pass=2, warmup_steps=1, weight_decay=0.1)
    train_flat(model, Source(packs()), GRID, config, seed=0, folder=tmp_path, header=header(GRID))
    moved = [(now.detach() - then).norm(dim=1) for now, then in ((model.text_table, before), (model.text_weight, head))]
    assert float(model.text_table[0].detach().abs().max()) == 0.0
    assert float(moved[0][24:40].max()) > 0  # tokens that documents hold
    if lora_rank:
        assert [float(one[55:].max()) for one in moved] == [0.0, 0.0]
    else:
        assert float(moved[1][55:].min()) > 0


def test_a_mixture_that_grows_trains_on_short_packs_first(tmp_path):
    lengths = [5] * 4 + [20] * 8 + [60] * 4
    made = [document(GRID, seed, num_frames=length, num_text=2) for seed, length in enumerate(lengths)]
    components = {"asr-000008": (Span(0, 4),), "asr-000032": (Span(4, 8),), "asr-000064": (Span(12, 4),)}
    source = Source(made, components=components)

    def columns(folder, mixture):
        config = Training(steps=8, packs_per_step=2, warmup_steps=1, mixture=mixture)
        model = model_for(GRID, dtype=torch.float32)
        train_flat(model, source, GRID, config, seed=0, folder=tmp_path / folder, header=header(GRID))
        return [record.num_columns for record in read_metrics(tmp_path / folder / "metrics.jsonl")]

    assert columns("grow", ("grow",)) == [16] * 2 + [46] * 4 + [126] * 2
    mixed = columns("mixed", ())
    assert sum(mixed) == 16 * 2 + 46 * 4 + 126 * 2
    assert mixed != sorted(mixed)
    unsorted = Source(made, components={"asr": (Span(0, 16),)})
    config = Training(steps=8, packs_per_step=2, mixture=("grow",))
    with pytest.raises(ValueError, match="asr has both"):
        train_flat(model_for(GRID), unsorted, GRID, config, seed=0, folder=tmp_path / "no", header=header(GRID))


def audio_answer(grid, num_frames=40):
    """A document whose audio is predicted from its first frame, and ended by a text cell."""
    columns = grid.layout.num_columns(num_frames)
    one = document(grid, 3, num_frames=num_frames, num_text=1)
    spans = [[1, 1, 1 + columns], [0, 1, 2 + columns]]
    weights = np.array([1 / grid.layout.num_streams, 1.0], np.float32)
    return replace(one, loss_spans=np.array(spans, np.int32), loss_weights=weights)


def test_cells_that_say_that_audio_goes_on_weigh_little_and_are_not_in_the_text_loss(tmp_path):
    model, packs = model_for(GRID), [joined([document(GRID, 1, num_text=6), audio_answer(GRID)])]
    batch = collate(packs, GRID)
    assert batch.num_pads == 40
    with torch.no_grad():
        heavy, light = model(batch), model(batch.with_pad_weight(0.1))
        logits = model.text_logits(model.states(batch)[batch.text_from])
    words = batch.text_targets != 0
    assert float(heavy.text_weight) == float(light.text_weight) == 7.0
    assert float(heavy.weight - light.weight) == pytest.approx(0.9 * 40)
    losses = torch.nn.functional.cross_entropy(logits, batch.text_targets, reduction="none")
    assert float(light.text_total) == pytest.approx(float(losses[words].sum()))
    assert float(heavy.total - light.total) == pytest.approx(0.9 * float(losses[~words].sum()))

    def first_loss(weight):
        config = Training(steps=1, packs_per_step=1, warmup_steps=1, pad_weight=weight)
        train_flat(
            model_for(GRID, dtype=torch.float32),
            Source(packs),
            GRID,
            config,
            seed=0,
            folder=tmp_path / str(weight),
            header=header(GRID),
        )
        return read_metrics(tmp_path / str(weight) / "metrics.jsonl")[0]

    for weight, loss in ((1.0, heavy), (0.1, light)):
        assert first_loss(weight).loss == pytest.approx(float(loss.total / loss.weight), rel=1e-4)
        assert first_loss(weight).text_loss == pytest.approx(float(loss.text_total / loss.text_weight), rel=1e-4)
    with pytest.raises(ValueError, match="pad_weight"):
        Training(pad_weight=0.0)


def test_operations_are_those_that_torch_counts():
    from torch.utils.flop_counter import FlopCounterMode

    grid = grid_spec()
    model = model_for(grid, dtype=torch.float32)
    batch = collate([joined([document(grid, seed, num_frames=30) for seed in range(3)])], grid)
    with FlopCounterMode(display=False) as counter:
        model(batch).total.backward()
    # On a CPU, short documents' scores are whole squares, of which we count what a column sees; torch does not count
    # products that are added in place, as those of the heads' gradients.
    hidden = sum(n * (n - 1) // 2 for n in batch.cu_seqlens.diff().tolist())
    attention = 12 * 32 * 2 * hidden
    in_place = 2 * 32 * (40 * len(batch.text_from) + 64 * len(batch.audio_from))
    assert training_flops(model.shape, model.vocabulary, batch) + attention - in_place == counter.get_total_flops()


def _sharded(rank, world_size, folder, port):
    import os

    import torch.distributed as dist

    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=world_size)
    config = changed(shard="full", ema_decay=0.5)
    run(folder, replace(config, steps=6), rank=rank, world_size=world_size)
    run(folder, config, rank=rank, world_size=world_size)
    dist.destroy_process_group()


@pytest.mark.filterwarnings("ignore")
def test_ranks_that_each_hold_a_part_make_the_same_steps(tmp_path):
    """FSDP2 on two ranks, stopped and gone on, against one rank with all parameters."""
    import torch.multiprocessing as mp

    run(tmp_path / "one", changed(ema_decay=0.5, steps=6))
    run(tmp_path / "one", changed(ema_decay=0.5))
    (tmp_path / "two").mkdir()
    mp.spawn(_sharded, args=(2, tmp_path / "two", _free_port()), nprocs=2)
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), abs=1e-4)
    for raw in (False, True):
        states = [checkpoint.load(tmp_path / f"{n}/step-000010", raw=raw)[0].state_dict() for n in ("one", "two")]
        for name, value in states[0].items():
            torch.testing.assert_close(states[1][name], value, rtol=1e-2, atol=1e-3)


def _sharded_unevenly(rank, world_size, folder, port, packs_per_step):
    import os
    from datetime import timedelta

    import torch.distributed as dist

    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=world_size, timeout=timedelta(seconds=30))
    run(folder, changed(shard="full", steps=3, packs_per_step=packs_per_step), rank=rank, world_size=world_size)
    dist.destroy_process_group()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("packs_per_step", [3, pytest.param(1, marks=pytest.mark.slow)])
def test_ranks_that_each_hold_a_part_need_not_have_as_many_packs(tmp_path, packs_per_step):
    """A rank with fewer packs than another, or none, makes passes that count for nothing; it would be waited for."""
    import torch.multiprocessing as mp

    run(tmp_path / "one", changed(steps=3, packs_per_step=packs_per_step))
    (tmp_path / "two").mkdir()
    mp.spawn(_sharded_unevenly, args=(2, tmp_path / "two", _free_port(), packs_per_step), nprocs=2)
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), abs=1e-4)
    records = [read_metrics(tmp_path / f"{n}/metrics.jsonl") for n in ("one", "two")]
    assert [r.text_loss for r in records[1]] == pytest.approx([r.text_loss for r in records[0]], abs=1e-4)


@pytest.mark.filterwarnings("ignore")
def test_a_compiled_model_is_the_same_and_no_length_compiles_anew():
    import shutil

    if shutil.which("g++") is None:
        pytest.skip("there is no C++ compiler")
    torch._dynamo.reset()
    from torch._dynamo.testing import CompileCounter

    grid = grid_spec()
    model = model_for(grid, dtype=torch.float32)
    batches = [collate([document(grid, seed, num_frames=5 + 3 * seed, num_text=3)], grid) for seed in range(5)]
    plain = [float(model(batch).total.detach()) for batch in batches]
    counter = CompileCounter()
    for block in model.blocks:
        block.begin = torch.compile(block.begin, dynamic=True, backend=counter)
        block.finish = torch.compile(block.finish, dynamic=True, backend=counter)
    compiled = [float(model(batch).total.detach()) for batch in batches]
    assert compiled == pytest.approx(plain, rel=1e-5)
    first = counter.frame_count
    assert [float(model(batch).total.detach()) for batch in batches] == pytest.approx(plain, rel=1e-5)
    assert counter.frame_count == first <= 2 * 2 * len(model.blocks)


def test_streams_must_be_as_many_as_the_layout_has():
    model = model_for(GRID, dtype=torch.float32)
    config = Training(steps=1, stream_weights=(1.0,))
    with pytest.raises(ValueError, match="the layout has 4 streams"):
        train_flat(model, Source(packs()), GRID, config, seed=0, folder=None, header=header(GRID))


def test_training_goes_on_from_a_url_on_another_machine(tmp_path):
    import fsspec

    from models.training.mirror import Mirror

    url = f"memory://{tmp_path.name}/training"
    run(tmp_path / "whole")

    def stop(record):
        if record.step == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "one", url=url, on_step=stop)
    mirror = Mirror(tmp_path / "other", url)
    assert mirror.steps() == [0, 3, 6]
    # A copy that was cut short is no checkpoint.
    fsspec.filesystem("memory").pipe_file(f"/{tmp_path.name}/training/step-000007/model.safetensors", b"half")
    source = Source(packs(), (4, 5))
    run(tmp_path / "other", url=url, source=source)
    assert len(source.read) == 4 * 4  # from step 6 on
    assert losses(tmp_path / "other") == losses(tmp_path / "whole")
    assert mirror.steps() == [0, 9, 10]
    mirror = Mirror(tmp_path / "third", url)
    mirror.fetch([10])
    for name in ("model.safetensors", "optimizer.safetensors", "checkpoint.json"):
        paths = [tmp_path / f"{which}/step-000010/{name}" for which in ("whole", "third")]
        assert paths[0].read_bytes() == paths[1].read_bytes()


def test_tokens_that_the_model_does_not_know_are_named_before_they_are_looked_up(tmp_path):
    made = packs()
    made[2] = replace(made[2], text_tokens=np.full_like(made[2].text_tokens, 40))
    with pytest.raises(ValueError, match="a text token is 40, but the model knows 40"):
        run(tmp_path, source=Source(made, (4, 5)))


def test_ctc_wants_to_know_where_documents_begin():
    with pytest.raises(ValueError, match="set ctc_weight 0"):
        changed(document_mask=False, ctc_weight=0.3)
