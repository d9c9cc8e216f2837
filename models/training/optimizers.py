"""Optimizers."""

from typing import Any

import torch
from torch import nn

from models.config.options import Training
from models.speech_lm.model import SpeechLM
from models.training.muon import Muon


def make_optimizers(model: SpeechLM, config: Training) -> list[torch.optim.Optimizer]:
    """Return AdamW with decay on matrices only, fused or in 8 bits, and Muon for the blocks' matrices where asked.

    What came from a text LLM has groups of its own, whose rate is a `share` of that of what is new.

    Source: Jordan et al. 2024, "Muon", kellerjordan.github.io/posts/muon; steps as large as AdamW's: Liu et al. 2025,
    "Muon is Scalable for LLM Training", arXiv:2502.16982, section 2.2.
    """
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    by_muon = [p for name, p in trained.items() if name.startswith("blocks.") and p.dim() == 2]
    if config.optimizer != "muon":
        by_muon = []
    muon_ids = {id(p) for p in by_muon}
    old_ids = {id(p) for name, p in trained.items() if name in model.pretrained}
    share = min(1.0, config.pretrained_lr / config.lr)

    def groups(parameters: list[nn.Parameter], decay: float) -> list[dict[str, Any]]:
        parts = ([p for p in parameters if (id(p) in old_ids) == old] for old in (False, True))
        return [
            {"params": part, "weight_decay": decay, "share": one}
            for part, one in zip(parts, (1.0, share), strict=True)
            if part
        ]

    by_adamw = [p for p in trained.values() if id(p) not in muon_ids]
    matrices, vectors = ([p for p in by_adamw if (p.dim() >= 2) == is_matrix] for is_matrix in (True, False))
    by_decay, betas = [*groups(matrices, config.weight_decay), *groups(vectors, 0.0)], (config.beta1, config.beta2)
    if config.optimizer == "adamw8bit":
        from models.training.low_bit import AdamW8bit

        return [AdamW8bit(by_decay, lr=config.lr, betas=betas)]
    optimizers: list[torch.optim.Optimizer] = []
    if by_decay:  # with train.only, all that is trained may be Muon's
        optimizers.append(torch.optim.AdamW(by_decay, lr=config.lr, betas=betas, fused=True))
    if by_muon:
        muon = groups(by_muon, config.weight_decay)
        optimizers.append(Muon(muon, lr=config.lr, adjust_lr_fn="match_rms_adamw"))
    return optimizers
