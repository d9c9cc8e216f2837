"""Beam search: of each answer, several beginnings go on at once, and the likeliest whole one wins.

Source: Graves 2012, arXiv:1211.3711, section 3; scores by length: Wu et al. 2016, "GNMT", arXiv:1609.08144, section 7.
"""

from dataclasses import dataclass

import torch

from models.speech_lm.decode.cache import StaticCache
from models.speech_lm.decode.text import Rules, append_text
from models.speech_lm.model import SpeechLM
from models.speech_lm.whisper.cache import HeardCache


@dataclass
class BeamState:
    """Prompts that were read, a row for each beginning of their answers: as many rows for each prompt as beams."""

    model: SpeechLM
    cache: StaticCache | HeardCache
    rules: Rules | None
    columns: list[int]
    """Of each prompt, in the cache."""


@dataclass(frozen=True)
class BeamSearch:
    """How wide and how far is searched."""

    width: int
    """Beginnings of each answer that are kept."""
    end: int
    """The token that ends an answer."""
    max_tokens: int
    """An answer's greatest length."""
    length_power: float = 1.0
    """An answer's log-likelihood is divided by its length, end included, to this power: 1 for the mean of its tokens, 0
    for the sum, which favors short answers."""

    def run(self, state: BeamState, hidden: torch.Tensor) -> list[list[int]]:
        """Return the best answer to each prompt.

        Args:
            state: rows (P x width,), each prompt's with its own keys and values.
            hidden: (P, d) last state of each prompt.

        Raises:
            ValueError: the grammars are followed by the host, which cannot take back a token.
        """
        if state.rules is not None and state.rules.on_host:
            raise ValueError("a beam search follows grammars as tables alone")
        number, width, device = len(hidden), self.width, hidden.device
        scores = torch.full((number, width), -torch.inf, device=device)
        scores[:, 0] = 0.0  # all beginnings are the same as yet: one of them goes on
        hidden = hidden.repeat_interleave(width, dim=0)
        tokens = [[list[int]() for _ in range(width)] for _ in range(number)]
        done: list[list[tuple[float, list[int]]]] = [[] for _ in range(number)]
        for length in range(1, self.max_tokens + 1):
            totals = scores.view(-1, 1) + self._log_likelihoods(state, hidden)
            size = totals.shape[1]
            best, places = totals.view(number, -1).topk(min(2 * width, totals.shape[1] * width), dim=1)
            rows, chosen, kept = [], [], []
            for prompt, (values, at) in enumerate(zip(best.tolist(), places.tolist(), strict=True)):
                ahead: list[tuple[float, int, int]] = []
                for value, place in zip(values, at, strict=True):
                    if value == -torch.inf:
                        continue
                    beam, token = divmod(place, size)
                    if token == self.end:
                        done[prompt].append((value / length**self.length_power, tokens[prompt][beam]))
                    elif len(ahead) < width:
                        ahead.append((value, beam, token))
                if self._is_over(done[prompt], ahead, length):
                    ahead = []
                ahead += [(-torch.inf, 0, self.end)] * (width - len(ahead))
                tokens[prompt] = [[*tokens[prompt][beam], token] for _, beam, token in ahead]
                kept.append([value for value, _, _ in ahead])
                rows += [prompt * width + beam for _, beam, _ in ahead]
                chosen += [token for _, _, token in ahead]
            scores = torch.tensor(kept, device=device)
            if not bool((scores > -torch.inf).any()) or length == self.max_tokens:
                break
            hidden = self._go_on(state, torch.tensor(rows, device=device), torch.tensor(chosen, device=device), length)
        for prompt, values in enumerate(scores.tolist()):  # what reached the greatest length
            lengths = self.max_tokens**self.length_power
            done[prompt] += [
                (value / lengths, text)
                for value, text in zip(values, tokens[prompt], strict=True)
                if value > -torch.inf
            ]
        return [max(found, key=lambda one: one[0])[1] if found else [] for found in done]

    def _is_over(self, done: list[tuple[float, list[int]]], ahead: list[tuple[float, int, int]], length: int) -> bool:
        """Return whether nothing ahead can become better than what is done: a log-likelihood only falls."""
        if len(done) < self.width or not ahead:
            return not ahead
        longest = self.max_tokens if self.length_power > 0 else length
        best_ahead: float = max(value for value, _, _ in ahead) / longest**self.length_power
        return best_ahead <= max(one for one, _ in done)

    def _log_likelihoods(self, state: BeamState, hidden: torch.Tensor) -> torch.Tensor:
        """Return those of the next token (B, V) of states (B, d), of what the rules allow."""
        logits = state.model.text_logits(hidden).float()
        logits[:, 0] = -torch.inf  # pad is not text
        if state.rules is not None:
            logits = logits.masked_fill(~state.rules.mask(), -torch.inf)
        return logits.log_softmax(dim=-1)

    def _go_on(self, state: BeamState, rows: torch.Tensor, tokens: torch.Tensor, length: int) -> torch.Tensor:
        """Give each row its beginning and its next token; return its states (B, d)."""
        state.cache.reorder(rows)
        if state.rules is not None:
            state.rules.reorder(rows)
            state.rules.advance(tokens, torch.ones_like(tokens, dtype=torch.bool))
        hidden = append_text(state.model, state.cache, tokens, max(state.columns) + length)
        state.cache.lengths.add_(1)
        return hidden
