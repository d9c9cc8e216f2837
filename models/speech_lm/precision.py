"""The type of numbers that a device computes in: on a GPU 16 bits, which is all that its attention kernels take."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
    return torch.bfloat16 if precision == "bf16" else torch.float32


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
