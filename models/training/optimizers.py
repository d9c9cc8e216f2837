"""Optimizers and the learning rate."""

import math

import torch

from models.config.options import Training
from models.speech_lm.model import SpeechLM


def learning_rate(step: int, config: Training) -> float:
    """Return the learning rate of a step, counted from 1."""
    if step <= config.warmup_steps:
        return config.lr * step / max(1, config.warmup_steps)
    progress = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    share = min(1.0, (1.0 - progress) / 0.2) if config.schedule == "wsd" else 0.5 * (1.0 + math.cos(math.pi * progress))
    return config.lr * (config.min_lr_share + (1.0 - config.min_lr_share) * share)


def make_optimizers(model: SpeechLM, config: Training) -> list[torch.optim.Optimizer]:
    """Return fused AdamW with decay on matrices only, and Muon for the blocks' matrices where asked.

    Source: Jordan et al. 2024, "Muon", kellerjordan.github.io/posts/muon; steps as large as AdamW's: Liu et al. 2025,
    "Muon is Scalable for LLM Training", arXiv:2502.16982, section 2.2.
    """
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    by_muon = [p for name, p in trained.items() if name.startswith("blocks.") and p.dim() == 2]
    if config.optimizer == "adamw":
        by_muon = []
    ids = {id(p) for p in by_muon}
    by_adamw = [p for p in trained.values() if id(p) not in ids]
    groups = [
        {"params": [p for p in by_adamw if p.dim() >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in by_adamw if p.dim() < 2], "weight_decay": 0.0},
    ]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(groups, lr=config.lr, betas=(config.beta1, config.beta2), fused=True)
    ]
    if by_muon:
        optimizers.append(
            torch.optim.Muon(by_muon, lr=config.lr, weight_decay=config.weight_decay, adjust_lr_fn="match_rms_adamw")
        )
    return optimizers
