"""The learning rate of each step; free of torch."""

import math

from models.config.options import Training


def learning_rate(step: int, config: Training) -> float:
    """Return the learning rate of a step, counted from 1."""
    if step <= config.warmup_steps:
        return config.lr * step / max(1, config.warmup_steps)
    progress = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    share = min(1.0, (1.0 - progress) / 0.2) if config.schedule == "wsd" else 0.5 * (1.0 + math.cos(math.pi * progress))
    return config.lr * (config.min_lr_share + (1.0 - config.min_lr_share) * share)


def decay_begins(config: Training) -> int:
    """Return the last step whose rate is the same however many steps there are: before a wsd schedule's decay, else 0.

    >>> decay_begins(Training(steps=110, warmup_steps=10, schedule="wsd")), decay_begins(Training(steps=110))
    (89, 0)
    """
    if config.schedule != "wsd":
        return 0
    full = config.lr * (config.min_lr_share + (1.0 - config.min_lr_share))  # as it is computed above, to the bit
    step = min(config.steps, config.warmup_steps + int(0.8 * (config.steps - config.warmup_steps)) + 1)
    while step > config.warmup_steps and learning_rate(step, config) < full:
        step -= 1
    return max(0, step)
