"""How likely a model thinks what it was to predict, document by document."""

from collections.abc import Sequence

import torch

from models.sequence.batch import collate
from models.sequence.documents import GridSpec, PackedDocuments
from models.speech_lm.model import SpeechLM
from models.speech_lm.precision import in_precision_of_device


@torch.no_grad()
@in_precision_of_device
def negative_log_likelihoods(
    model: SpeechLM, packs: Sequence[PackedDocuments], grid: GridSpec
) -> list[tuple[float, float]]:
    """Return the negative log-likelihood of each pack's targets in nats, weighted as in training, and their weight.

    Args:
        model: its device is used.
        packs: with loss spans.
        grid: what their integers mean.
    """
    device = next(model.parameters()).device
    model.eval()
    found = []
    for pack in packs:
        loss = model(collate([pack], grid).to(device), model.backend())
        found.append((float(loss.text_total + loss.audio_total), float(loss.text_weight + loss.audio_weight)))
    return found
