"""The type of numbers that a device computes in: on a GPU 16 bits, which is all that its attention kernels take."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

import torch
from torch import nn

from models.config.options import Precision


def precision_of(device_type: str, wanted: Precision = "auto") -> Precision:
    """Return the precision of computation on a kind of device: as wanted, else bf16 on CUDA, float32 elsewhere.

    >>> precision_of("cuda"), precision_of("cpu"), precision_of("cuda", "float32")
    ('bf16', 'float32', 'float32')
    """
    if wanted != "auto":
        return wanted
    return "bf16" if device_type == "cuda" else "float32"


def type_of(precision: Precision) -> torch.dtype:
    """Return the type of matrix products, and of what attention is given."""
    return torch.float32 if precision == "float32" else torch.bfloat16


def to_fp8(blocks: nn.Module, device_type: str) -> None:
    """Let the matrix products of blocks compute in 8 bits, each row and column with a scale of its own.

    Names, values and the type of the weights stay as they are, so checkpoints do too. Elsewhere than on a GPU the same
    rounding is emulated, to be tested.
    Source: Micikevicius et al. 2022, "FP8 Formats for Deep Learning", arXiv:2209.05433.

    Raises:
        ImportError: torchao is not installed.
        ValueError: the GPU has no 8-bit products, or the model trains low-rank updates, whose products are small.
    """
    from torchao.float8 import Float8LinearConfig, convert_to_float8_training

    if any(name.endswith("update_up") for name, _ in blocks.named_parameters()):
        raise ValueError("train.precision fp8: low-rank updates (model.lora_rank) are trained in bf16")
    if device_type == "cuda" and torch.cuda.get_device_capability() < (8, 9):
        raise ValueError(f"train.precision fp8: {torch.cuda.get_device_name()} has no 8-bit matrix products; use bf16")
    config = Float8LinearConfig.from_recipe_name("rowwise" if device_type == "cuda" else "tensorwise")
    if device_type != "cuda":
        config = replace(config, emulate=True)
    convert_to_float8_training(blocks, module_filter_fn=_is_in_steps_of_16, config=config)


def _is_in_steps_of_16(module: nn.Module, _name: str) -> bool:
    """Return whether a matrix has the sizes that 8-bit products take."""
    return isinstance(module, nn.Linear) and module.in_features % 16 == 0 and module.out_features % 16 == 0


@contextmanager
def computing(device_type: str, wanted: Precision = "auto") -> Iterator[None]:
    """Compute in a precision; weights, and sums of losses, keep their own."""
    dtype = type_of(precision_of(device_type, wanted))
    with torch.autocast(device_type, torch.bfloat16, enabled=dtype is torch.bfloat16):
        yield


Model = TypeVar("Model", bound=nn.Module)
Options = ParamSpec("Options")
Result = TypeVar("Result")


def in_precision_of_device(
    function: Callable[Concatenate[Model, Options], Result],
) -> Callable[Concatenate[Model, Options], Result]:
    """Let a function of a model compute in the precision of the model's device."""

    @wraps(function)
    def computed(model: Model, /, *arguments: Options.args, **options: Options.kwargs) -> Result:
        with computing(next(model.parameters()).device.type):
            return function(model, *arguments, **options)

    return computed
