"""What test_triton_kernels.py runs in a process of its own, where Triton interprets kernels and compiles none."""

from typing import get_args

import pytest
import torch

from models.kernels import fused, loss, plain, triton_kernels
from models.kernels.kernel_trial import disagreements
from models.kernels.loss import full_cross_entropy, linear_cross_entropy
from models.kernels.verdict import compared
from models.sequence.batch import collate
from tests.models.support import document, grid_spec, joined, model_for


@pytest.fixture(autouse=True)
def _few_programs(monkeypatch):
    monkeypatch.setattr(triton_kernels, "_PROGRAMS", 3)


def test_each_is_its_plain_reference_in_values_and_gradients():
    assert disagreements(triton_kernels, torch.device("cpu"), many=7) == []


def test_the_trial_is_the_same_in_the_middle_of_a_step():
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert disagreements(triton_kernels, torch.device("cpu"), many=2) == []
    with torch.inference_mode():
        assert disagreements(triton_kernels, torch.device("cpu"), many=2, kind="norm") == []


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("qk_norm", [True, False])
def test_a_whole_model_by_kernels_is_the_model(monkeypatch, half, qk_norm):
    grid = grid_spec("delay", 1)
    batch = collate([joined([document(grid, seed) for seed in range(3)])], grid)
    model = model_for(grid, dtype=torch.float32, qk_norm=qk_norm, prompt_attention="both")
    found = []
    for kernels in (None, triton_kernels):
        with monkeypatch.context() as patch:
            patch.setattr(fused, "is_supported", lambda *_, kernels=kernels: kernels is not None)
            for module in (fused, loss):
                patch.setattr(module, "gpu_kernels", lambda *_, kernels=kernels: kernels)
            model.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                total = model(batch, z_weight=1e-3).total
            total.backward()
        found.append([total.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)])
    share = 0.1 if half else 1e-4
    assert len(found[0]) > 15
    for one, other in zip(*found, strict=True):
        assert float((one - other).norm()) <= share * float(other.norm()) + 1e-5


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("rms_norm", "norm"),
        ("heads", "heads"),
        ("swiglu", "swiglu"),
        ("embedding_sum", "embedding sum"),
        ("cross_entropy_", "cross-entropy"),
    ],
)
def test_the_trial_finds_a_kernel_that_is_a_little_off(monkeypatch, name, kind):
    correct = getattr(triton_kernels, name)

    def off(*inputs, **options):
        results = correct(*inputs, **options)
        return tuple(one * 1.05 for one in results) if isinstance(results, tuple) else results * 1.05

    monkeypatch.setattr(triton_kernels, name, off)
    found = disagreements(triton_kernels, torch.device("cpu"), many=2, kind=kind)
    assert len(found) >= 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("z_weight", [0.0, 0.01])
def test_chunked_cross_entropy_by_kernels_is_that_of_full_logits(monkeypatch, dtype, z_weight):
    monkeypatch.setattr(loss, "gpu_kernels", lambda *_: triton_kernels)
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(11, 16, generator=generator).to(dtype).requires_grad_()
    weight = torch.randn(3 * 7, 16, generator=generator).to(dtype).requires_grad_()
    targets = torch.randint(0, 7, (11, 3), generator=generator)
    targets[4], targets[5, 1] = -100, -100
    weights = torch.rand(11, 3, generator=generator)
    found = []
    for work in (linear_cross_entropy, full_cross_entropy):
        chunk = {"chunk": 4} if work is linear_cross_entropy else {}
        total = work(hidden, weight, targets, weights, z_weight=z_weight, **chunk)
        found.append([total, *torch.autograd.grad(total, (hidden, weight))])
    share = 1e-5 if dtype == torch.float32 else 3e-2
    for one, other in zip(*([part.detach().float() for part in parts] for parts in found), strict=True):
        torch.testing.assert_close(one, other, rtol=share, atol=share * float(other.abs().max()))


def test_the_trial_of_speed_runs_each_kernel_and_its_reference(monkeypatch):
    used = dict.fromkeys(("rms_norm", "heads", "swiglu", "embedding_sum", "cross_entropy_"), 0)

    def counted(name, right):
        def run(*inputs, **options):
            used[name] += 1
            return right(*inputs, **options)

        return run

    for name in used:
        monkeypatch.setattr(triton_kernels, name, counted(name, getattr(triton_kernels, name)))
    found = dict(compared(triton_kernels, torch.device("cpu"), rows=8, width=16, ids=4, repeats=1))
    assert tuple(found) == get_args(plain.Kind)
    assert all(one > 0 < other for one, other in found.values())
    assert all(number == 2 for number in used.values())
