"""Groups of ranks that training asks for, checked before work begins. Does not import torch."""

from models.config.errors import InputError
from models.config.options import Training
from models.config.shape import Shape


def check_groups(config: Training, num_ranks: int) -> None:
    """Check that a number of ranks can be cut into the groups that are asked for.

    Raises:
        InputError: a group's size does not divide it.
    """
    for name, size in (("shard_size", config.shard_size), ("context_size", config.context_size)):
        if size and num_ranks % size:
            raise InputError(
                f"train.{name} is {size}, which does not divide the {num_ranks} training workers; "
                "take another size, or another --train-workers"
            )


def check_context(config: Training, shape: Shape) -> None:
    """Check that a model's columns can be split over a context group.

    Raises:
        InputError: its heads cannot be dealt out evenly, or an encoder needs the columns of a whole recording.
    """
    size = config.context_size
    if size == 1:
        return
    if shape.num_heads % size:
        raise InputError(
            f"train.context_size is {size}, which does not divide the {shape.num_heads} heads that are dealt out "
            "(model.num_heads)"
        )
    if shape.encoder is not None:
        raise InputError("train.context_size splits columns, of which model.encoder needs whole recordings; set 1")
