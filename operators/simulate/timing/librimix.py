"""LibriMix: one utterance per speaker, all starting together."""

import numpy as np

from operators.simulate.timing.timing import OVERLAP, START, Pool, Timeline, Timing, Traits, timeline_of


class LibriMix(Timing):
    """One utterance per speaker, all from time 0, kept whole to the end of the longest (LibriMix's mode `max`)."""

    name = "librimix"
    source = (
        'Cosentino et al. 2020, "LibriMix: an open-source dataset for generalizable speech separation", '
        "arXiv:2005.11262, with mode `max` of its scripts (github.com/JorisCos/LibriMix): a mixture ends with its "
        "longest source, so that no word is cut"
    )

    def __call__(self, pool: Pool, traits: Traits, draw: np.random.Generator) -> Timeline:
        """Return the timeline of one conversation; neither its traits nor the prior are used."""
        del traits
        begins = pool.begins
        speakers = draw.permutation(len(begins) - 1).tolist()
        # The first is placed however long it lasts, as in every timing.
        wanted = [s for s in speakers if begins[s] < begins[s + 1]][: pool.target]
        who = [s for n, s in enumerate(wanted) if not n or pool.seconds[begins[s]] <= pool.limit_s]
        piece = [int(begins[s]) for s in who]
        kind = [OVERLAP if number else START for number in range(len(who))]
        return timeline_of(piece, who, kind, [0.0] * len(who), len(wanted) - len(who))
