"""How conversations differ from each other: lively ones have fewer holds, more backchannels and earlier offsets."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from operators.simulate.priors.prior import Prior

Floats = NDArray[np.float64]


def hold_probabilities(odds: Floats, overlaps: float, shifts: Floats) -> tuple[Floats, Floats]:
    """Return the probabilities of a hold (3, N) and its stationary share (N,), in chains whose log-odds are shifted.

    Args:
        odds: (3,) log-odds of a hold after a hold, a gap, an overlap.
        overlaps: share of overlaps among the changes of speaker.
        shifts: (N,) shift of all log-odds in each chain.
    """
    chance = 1 / (1 + np.exp(-(odds[:, None] + shifts)))
    after_switch = (1 - overlaps) * chance[1] + overlaps * chance[2]
    return chance, after_switch / (1 - chance[0] + after_switch)


def hold_shares(odds: Floats, overlaps: float, spread: float) -> Floats:
    """Return the shares (3,) of holds after a hold, a gap, an overlap over all conversations.

    Args:
        odds: (3,) log-odds of a hold in the average conversation.
        overlaps: share of overlaps among the changes of speaker.
        spread: standard deviation of the conversations' log-odds.
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(21)
    chance, hold = hold_probabilities(odds, overlaps, spread * nodes)
    seen = np.stack([hold, (1 - hold) * (1 - overlaps), (1 - hold) * overlaps]) * weights
    return np.asarray((seen * chance).sum(1) / seen.sum(1))


def mean_tempo_of_switches(prior: Prior) -> float:
    """Return the mean normal score of conversations' tempo over all changes of speaker.

    Lively conversations have more changes of speaker, so that it is not 0; offsets keep their distribution over all
    changes of speaker if it is subtracted.
    """
    if not prior.liveliness[0]:
        return 0.0
    nodes, weights = np.polynomial.hermite_e.hermegauss(21)
    shares = np.clip(np.array(prior.hold_after), 1e-6, 1 - 1e-6)
    overlaps = float((np.array(prior.offset_s) < 0).mean())
    _, hold = hold_probabilities(np.log(shares / (1 - shares)), overlaps, prior.liveliness[0] * nodes)
    switches = weights * (1 - hold)
    return float(prior.liveliness_correlation[0] * (switches * nodes).sum() / switches.sum())


def conversation_liveliness(prior: Prior, normals: Sequence[float], tempo: float) -> tuple[float, float]:
    """Return a conversation's shift of the log-odds of holds, and its factor on the rate of backchannels.

    Args:
        prior: spreads and correlations.
        normals: two standard normal draws.
        tempo: standard normal score of the conversation's offsets.
    """
    late_hold, late_back, hold_back = prior.liveliness_correlation
    hold = late_hold * tempo + np.sqrt(max(0.0, 1 - late_hold**2)) * normals[0]
    rest = np.sqrt(max(1e-9, 1 - late_hold**2))
    mixed = np.clip((hold_back - late_hold * late_back) / rest, -1.0, 1.0)
    left = np.sqrt(max(0.0, 1 - late_back**2 - mixed**2))
    back = late_back * tempo + mixed * normals[0] + left * normals[1]
    of_hold, of_back = prior.liveliness
    return float(of_hold * hold), float(np.exp(of_back * back - of_back**2 / 2))


def host_dispersion(prior: Prior) -> float:
    """Return the shape of the gamma distribution of rates among the hosts of one conversation."""
    of_conversations = float(np.exp(prior.liveliness[1] ** 2) - 1)
    return 1 / max(1e-3, (1 + 1 / prior.backchannel_dispersion) / (1 + of_conversations) - 1)


def average_hold_probabilities(shares: Sequence[float], overlaps: float, spread: float) -> tuple[float, float, float]:
    """Return the probabilities (3,) of a hold in the average conversation, from the shares (3,) over all of them.

    Steady conversations have more holds, so that transitions after a hold are observed in them more often than
    elsewhere: the shares over all conversations mix the chain with the differences between conversations. Solved over
    a normal distribution of log-odds, with each conversation's chain at its stationary state.

    Args:
        shares: share of holds after a hold, a gap, an overlap, over all conversations.
        overlaps: share of overlaps among the changes of speaker.
        spread: standard deviation of the conversations' log-odds.
    """
    wanted = np.clip(np.array(shares), 0.01, 0.99)
    if spread <= 0:
        return tuple(shares)  # type: ignore[return-value]
    goal = np.log(wanted / (1 - wanted))
    odds = goal.copy()
    for _ in range(200):
        mean = hold_shares(odds, overlaps, spread)
        odds += 0.7 * (goal - np.log(mean / (1 - mean)))
    found: list[float] = (1 / (1 + np.exp(-odds))).round(6).tolist()
    return (found[0], found[1], found[2])
