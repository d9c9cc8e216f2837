"""Landini et al.: shuffled speakers with independent pauses, gaps and overlaps."""

import numpy as np

from operators.simulate.timing.timing import Pool, Timeline, Timing, Traits, place_by_gaps, read_quantiles

LONGEST_S = 7.0
"""Longest pause, gap and overlap, in seconds."""


class Landini(Timing):
    """Independent pauses and overlaps: labels are shuffled; three distributions and a coin decide the times."""

    name = "landini"
    source = (
        'Landini et al. 2022, "From simulated mixtures to simulated conversations as training data for end-to-end '
        'neural diarization", arXiv:2204.00890, section 3'
    )

    def __call__(self, pool: Pool, traits: Traits, draw: np.random.Generator) -> Timeline:
        """Return the timeline of one conversation; its traits are not used."""
        del traits
        prior, begins = self.prior, pool.begins
        speakers = len(begins) - 1
        # The multiset of labels is shuffled; each speaker's pieces keep their order.
        labels = draw.permutation(np.repeat(np.arange(speakers), np.diff(begins)))
        first = np.unique(labels, return_index=True)[1]  # everybody in the cast is heard
        others = np.setdiff1d(np.arange(len(labels)), first)[: max(0, pool.target - len(first))]
        labels = labels[np.sort(np.concatenate([first, others]))]
        at = begins[:-1].copy()
        offsets = np.array(prior.offset_s)
        overlapping = float((offsets < 0).mean())
        order, gaps = [], []
        last = -1
        for speaker in labels.tolist():
            order.append((int(at[speaker]), speaker))
            at[speaker] += 1
            level = draw.random()
            if speaker == last or last < 0:
                gap = float(read_quantiles(prior.pause_s, np.array([level]))[0])
            elif draw.random() < overlapping:
                gap = float(read_quantiles(prior.offset_s, np.array([level * overlapping]))[0])
            else:
                gap = float(read_quantiles(prior.offset_s, np.array([overlapping + level * (1 - overlapping)]))[0])
            gaps.append(float(np.clip(gap, -LONGEST_S, LONGEST_S)))
            last = speaker
        return place_by_gaps(order, np.array(gaps), pool, after_previous_only=False)
