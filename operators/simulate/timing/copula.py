"""Hubbub's own turn-taking: a chain of holds and switches, with offsets and pauses by a Gaussian copula."""

import numpy as np
import scipy  # its modules are loaded when they are used

from operators.simulate.priors.liveliness import mean_tempo_of_switches
from operators.simulate.priors.prior import Prior
from operators.simulate.timing.copula_kernels import coupling, floors
from operators.simulate.timing.timing import Floats, Pool, Timeline, Timing, Traits

COUPLING_STEPS = 96
"""Rows of the table by which overlaps are assigned to pairs of segments that have room for them."""


class Copula(Timing):
    """Offsets and pauses with shared, speaker and serial parts; every overlap fits (docs/simulation.md)."""

    name = "copula"
    source = (
        'Hubbub; the floor and its transfer offsets as in Heldner & Edlund 2010, "Pauses, gaps and overlaps in '
        'conversations", J. Phonetics 38(4)'
    )
    has_backchannels = True

    def __init__(self, prior: Prior, min_own_pause_s: float) -> None:
        super().__init__(prior, min_own_pause_s)
        self.offsets, self.pauses = np.array(prior.offset_s), np.array(prior.pause_s)
        self.hold_after, self.offset_after = np.array(prior.hold_after), np.array(prior.offset_after)
        # Pearson correlation of normal scores that have the rank correlation.
        correlation = 2 * np.sin(np.pi / 6 * prior.pause_length_correlation)
        shares = [prior.conversation_share, prior.speaker_share, prior.serial, prior.pause_conversation_share]
        self.shares = np.array([*shares, correlation])
        self.mean_tempo = mean_tempo_of_switches(prior)

    def __call__(self, pool: Pool, traits: Traits, draw: np.random.Generator) -> Timeline:
        """Return the timeline of one conversation."""
        prior, seconds, speakers = self.prior, pool.seconds, len(pool.begins) - 1
        attempts = min(pool.target, len(seconds)) + speakers + 1
        draws, normals = draw.random((attempts, 3)), draw.standard_normal((attempts, 2))
        ranked = np.sort(seconds)
        back = 1.0 if speakers == 2 else prior.return_share
        overlap, hazard = coupling(
            self.offsets, ranked, back, 1 - prior.hold_after[1], self.min_own_pause_s, COUPLING_STEPS
        )
        scores = scipy.special.ndtri((np.searchsorted(ranked, seconds, side="right") - 0.5) / max(1, len(seconds)))
        piece, who, kind, start_s, _, clipped, dropped = floors(
            seconds,
            scores,
            pool.begins,
            traits.weights,
            draws,
            normals,
            traits.tempo - self.mean_tempo,
            traits.pace,
            traits.habits,
            self._hold_after(traits.steadiness),
            self.offset_after,
            prior.return_share,
            self.shares,
            self.offsets,
            self.pauses,
            overlap,
            hazard,
            pool.target,
            pool.limit_s,
            self.min_own_pause_s,
        )
        return Timeline(piece, who.astype(np.int64), kind, start_s, int(dropped), int(clipped))

    def _hold_after(self, steadiness: float) -> Floats:
        """Return the probabilities (3,) of a hold in a conversation whose log-odds are shifted."""
        if not steadiness:
            return self.hold_after
        odds = np.log(self.hold_after / (1 - self.hold_after))
        return np.asarray(1 / (1 + np.exp(-odds - steadiness)))
