"""How long a pack may be: memory of a training step by calculation, held against measurement."""

from collections.abc import Iterator
from dataclasses import replace

import torch

from models.config.shape import SIZES, Shape
from models.sequence.batch import collate
from models.speech_lm.model import SpeechLM
from models.speech_lm.precision import computing
from tests.bench import gpu
from tests.bench.clocks import peak_memory
from tests.bench.gpu_parts.setting import Figure, Setting
from tests.models.support import joined

CARD_BYTES = 80e9
"""Memory of an H100; what the CUDA context and the allocator's gaps take is left out by `USABLE`."""
USABLE = 0.92


def fixed_bytes(shape: Shape) -> int:
    """Return the bytes of a model's parameters, and of gradients and two moments of the trained ones."""
    with torch.device("meta"):
        model = SpeechLM(shape, gpu.vocabulary())
    parameters = list(model.parameters())
    whole = sum(one.numel() * one.element_size() for one in parameters)
    return whole + sum(3 * one.numel() * one.element_size() for one in parameters if one.requires_grad)


def column_bytes(shape: Shape) -> int:
    """Return the bytes that a column needs with recomputation, in bf16: what is kept of every block, and one block.

    Kept: a block's input in float32. Of the block in work: what its operations keep for the backward pass, once more
    for gradients; before the first and after the last block, states in float32 and their gradients.

    >>> column_bytes(SIZES["7b"]) > column_bytes(SIZES["1b"])
    True
    """
    heads, kept = shape.num_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim
    attention = 2 * (shape.dim + 2 * (heads + 2 * kept) + heads + shape.dim)
    ffn = 2 * (shape.dim + 3 * shape.ffn_dim + shape.dim)
    return 4 * shape.dim * shape.num_layers + 2 * (attention + ffn) + 4 * 4 * shape.dim


def ceiling(setting: Setting) -> Iterator[Figure]:
    """Yield the longest pack at 7b's shape with LoRA on 80 GB: calculated, and corrected by what 1b needs measured."""
    size, short, long = ("tiny", 256, 1024) if setting.is_small else ("1b", 8192, 32_768)
    shape = replace(SIZES[size], lora_rank=16)
    needed, columns = [], []
    model = gpu.made_on(setting.device, lambda: SpeechLM(shape, gpu.vocabulary())).train()
    model.recompute = True
    backend = model.backend()
    for capacity in (short, long):
        batch = collate([joined(gpu.packs_of(1, capacity)[0])], gpu.GRID).to(setting.device)

        def step(given=batch) -> None:  # type: ignore[no-untyped-def]
            model.zero_grad(set_to_none=True)
            with computing(setting.device):
                made = model(given, backend)
            made.total.backward()

        step()  # kernels are compiled, gradients are there
        columns.append(len(batch.text))
        needed.append(peak_memory(step, setting.device))
        yield setting.speed(f"{size} with LoRA, {columns[-1]:,} columns: peak above the weights, GB", needed[-1] / 1e9)
    slope = (needed[1] - needed[0]) / (columns[1] - columns[0])
    ratio = slope / column_bytes(shape)
    yield setting.speed(f"{size}: bytes a column, measured", slope)
    yield Figure(f"{size}: bytes a column, calculated", column_bytes(shape))
    yield setting.speed(f"{size}: measured over calculated", ratio, least=0.5, most=1.5)
    large = replace(SIZES["7b"], lora_rank=16)
    left = CARD_BYTES * USABLE - fixed_bytes(large)
    yield Figure("7b with LoRA: parameters, gradients and moments, GB (calculated)", round(fixed_bytes(large) / 1e9, 1))
    yield Figure("7b with LoRA on 80 GB: longest pack, columns (calculated)", int(left / column_bytes(large)))
    name = "7b with LoRA on 80 GB: longest pack, columns (corrected by what was measured)"
    if not setting.is_cuda:
        yield Figure(name, "needs a GPU: a CPU's allocator keeps what it was given")
        return
    yield setting.speed(name, int(left / column_bytes(large) / ratio), least=32_768)
