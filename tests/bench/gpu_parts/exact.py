"""Whether a training is right: as on a CPU, resumed as uninterrupted, and learning without growing."""

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from models.config.options import Training
from models.config.shape import SIZES
from models.training.metrics import StepRecord
from tests.bench.clocks import memory_in_use
from tests.bench.gpu_parts.runs import StoppedError, conversations, differs, small_model, trained, worst
from tests.bench.gpu_parts.setting import Figure, Setting, exact_float32

FLOAT32_PARITY, BF16_PARITY = 1e-3, 1e-2
"""Greatest relative differences of a step's loss to the CPU's in float32. Rounding grows from step to step."""


def parity(setting: Setting) -> Iterator[Figure]:
    """Yield how far the losses of the same packs and weights are from those of a CPU in float32."""
    steps, capacity = (6, 128) if setting.is_small else (20, 512)
    # In float32 a GPU's own kernels are out, and FlexAttention would be compiled: that is measured elsewhere.
    base = Training(
        steps=steps,
        packs_per_step=2,
        warmup_steps=2,
        checkpoint_every=steps,
        lr=1e-3,
        precision="float32",
        attention="loop",
    )
    rounded = replace(base, precision="bf16", attention="auto")
    packs = conversations(6, capacity)
    with tempfile.TemporaryDirectory() as name, exact_float32():
        folder = Path(name)

        def curve(which: str, device: str, config: Training) -> list[StepRecord]:
            return trained(small_model(SIZES["tiny"]), packs, config, folder / which, device)

        expected = curve("cpu", "cpu", base)
        found = curve("float32", setting.device, base)
        yield setting.right("float32: worst relative difference of a loss", worst(expected, found), FLOAT32_PARITY)
        found = curve("bf16", setting.device, rounded)
        yield setting.right("bf16: worst relative difference of a loss", worst(expected, found), BF16_PARITY)
        shape = replace(SIZES["tiny"], prompt_attention="both")
        expected = trained(small_model(shape), packs, base, folder / "both-cpu", "cpu")
        found = trained(small_model(shape), packs, rounded, folder / "both", setting.device)
        yield setting.right("bf16, bidirectional prompts: the same", worst(expected, found), BF16_PARITY)


def resume(setting: Setting) -> Iterator[Figure]:
    """Yield whether a training that is stopped and resumed equals one that is not, and whether two whole ones do."""
    steps, capacity = (6, 128) if setting.is_small else (16, 512)
    cut, packs = steps - 2, conversations(6, capacity)

    def stop(record: StepRecord) -> None:
        if record.step == cut:
            raise StoppedError

    base = Training(steps=steps, packs_per_step=2, warmup_steps=2, checkpoint_every=cut - 1, lr=1e-3)
    configs = {
        "bf16": replace(base, precision="bf16"),
        "float32": replace(base, precision="float32", attention="loop"),
    }
    for precision, config in configs.items():
        with tempfile.TemporaryDirectory() as name, exact_float32():
            models = [small_model(SIZES["tiny"]) for _ in range(3)]
            runs = [Path(name, which) for which in ("whole", "again", "cut")]
            whole, again = (
                trained(model, packs, config, folder, setting.device)
                for model, folder in zip(models[:2], runs[:2], strict=True)
            )
            first = trained(small_model(SIZES["tiny"]), packs, config, runs[2], setting.device, on_step=stop)
            rest = trained(models[2], packs, config, runs[2], setting.device)
        resumed = [*first[: rest[0].step - 1], *rest]
        same = worst(whole, again)
        yield Figure(f"{precision}: two whole trainings are equal to the bit", same == 0 == differs(*models[:2]))
        is_equal = [record.loss for record in whole] == [record.loss for record in resumed]
        off = differs(models[0], models[2])
        yield Figure(f"{precision}: resumed equals uninterrupted to the bit", is_equal and off == 0)
        yield setting.right(f"{precision}: worst relative difference of a loss", worst(whole, resumed), 1e-3)
        yield setting.right(f"{precision}: greatest difference of a parameter", off, 5e-3)


def long_run(setting: Setting) -> Iterator[Figure]:
    """Yield whether a training learns what can be learned, and uses no more memory in the end than after its start."""
    steps, settled, capacity = (40, 20, 128) if setting.is_small else (300, 50, 2048)
    memory: dict[int, int] = {}

    def watch(record: StepRecord) -> None:
        memory[record.step] = memory_in_use(setting.device)

    config = Training(steps=steps, packs_per_step=1, warmup_steps=10, checkpoint_every=steps, lr=1e-3)
    model = small_model(SIZES["tiny" if setting.is_small else "base"])
    packs = conversations(8, capacity)
    with tempfile.TemporaryDirectory() as folder:
        records = trained(model, packs, config, Path(folder), setting.device, on_step=watch)
    begin, end = (fmean(record.text_loss for record in some) for some in (records[:5], records[-5:]))
    yield Figure("text loss at the begin", round(begin, 3))
    yield setting.right("text loss at the end", end, (0.95 if setting.is_small else 0.3) * begin)
    yield setting.holds("every loss is finite", all(abs(record.loss) < float("inf") for record in records))
    grown = max(memory[step] for step in range(settled, steps + 1)) - memory[settled]
    allowed = 2e6 if setting.is_cuda else 100e6  # the CPU's is that of the whole process
    yield setting.right(f"memory from step {settled} on grows by, MB", grown / 1e6, allowed / 1e6)
    yield Figure("seconds a step", round(fmean(record.seconds for record in records[settled:]), 4))
