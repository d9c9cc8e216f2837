"""Greedy decoding of text: prompts prefilled packed, then one column a step for all of them at once."""

from collections.abc import Sequence

import torch

from models.attention import choose_backend
from models.batch import GridSpec, PackedDocuments, collate
from models.speech_lm import SpeechLM


@torch.no_grad()
def greedy_text(
    model: SpeechLM, prompts: Sequence[PackedDocuments], grid: GridSpec, *, end: int, max_tokens: int
) -> list[list[int]]:
    """Continue each prompt with the likeliest text token until `end`.

    Args:
        model: the speech-LLM; its device is used.
        prompts: packs of one document each, without loss spans.
        grid: what their integers mean.
        end: the token that ends an answer.
        max_tokens: an answer's greatest length.

    Returns:
        The tokens of each answer, without `end`.
    """
    if not prompts:
        return []
    model.eval()
    device = next(model.parameters()).device
    batch = collate(prompts, grid).to(device)
    hidden, cache = model.prefill(batch, room=max_tokens, backend=choose_backend(device.type))
    answers: list[list[int]] = [[] for _ in prompts]
    running = torch.ones(len(prompts), dtype=torch.bool, device=device)
    for number in range(max_tokens):
        logits = model.text_head(hidden).float()
        logits[:, 0] = -torch.inf  # pad is no text
        tokens = logits.argmax(dim=-1)
        running &= tokens != end
        if not bool(running.any()):
            break
        for answer, token, goes_on in zip(answers, tokens.tolist(), running.tolist(), strict=True):
            if goes_on:
                answer.append(token)
        if number + 1 < max_tokens:
            hidden = model.step(tokens, cache)
    return answers
