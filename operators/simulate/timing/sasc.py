"""SASC: a speaker's own mean gap and deviations from it, with speakers by a Markov chain."""

import numpy as np

from operators.simulate.timing.timing import Pool, Timeline, Timing, Traits, place_by_gaps, read_quantiles

MOST_SHARE = 0.9
"""Most of the variance of gaps that speakers' means may have."""


class Sasc(Timing):
    """Speaker-aware simulated conversations.

    Means and deviations are drawn from the prior's quantiles, split by its shares of variance (the paper uses kernel
    densities of one corpus); same-speaker and different-speaker gaps are separate.
    """

    name = "sasc"
    source = (
        'Gedeon & Mihajlik 2025, "Speaker-aware simulation of conversational speech", arXiv:2509.15808, as described '
        "by its authors, who published no code"
    )

    def __call__(self, pool: Pool, traits: Traits, draw: np.random.Generator) -> Timeline:
        """Return the timeline of one conversation; its traits are not used."""
        del traits
        prior, begins = self.prior, pool.begins
        speakers = len(begins) - 1
        shares = (
            min(MOST_SHARE, prior.conversation_share + prior.speaker_share),
            min(MOST_SHARE, prior.pause_conversation_share),
        )
        tables = (np.array(prior.offset_s), np.array(prior.pause_s))
        means = [
            table.mean() + np.sqrt(share) * (read_quantiles(table, draw.random(speakers)) - table.mean())
            for table, share in zip(tables, shares, strict=True)
        ]
        at = begins[:-1].copy()
        order: list[tuple[int, int]] = []
        gaps = []
        last = int(draw.integers(speakers))
        silent = {s for s in range(speakers) if at[s] < begins[s + 1]}
        hold = prior.hold_after[1]
        while len(order) < pool.target:
            ready = [s for s in range(speakers) if at[s] < begins[s + 1]]
            if not ready:
                break
            if len(silent) >= pool.target - len(order):  # everybody in the cast is heard
                ready = [s for s in ready if s in silent]
            others = [s for s in ready if s != last]
            stays = last in ready and (not others or draw.random() < hold) if order else last in ready
            speaker = last if stays else others[int(draw.integers(len(others)))]
            same = 1 if order and speaker == last else 0
            table, share = tables[same], shares[same]
            deviation = np.sqrt(1 - share) * (read_quantiles(table, draw.random(1))[0] - table.mean())
            gaps.append(means[same][speaker] + deviation if order else 0.0)
            order.append((int(at[speaker]), speaker))
            at[speaker] += 1
            silent.discard(speaker)
            last = speaker
        return place_by_gaps(order, np.array(gaps), pool, after_previous_only=True)
