"""How conversations differ from each other: lively ones have fewer holds, more backchannels and earlier offsets."""

from collections.abc import Sequence

import numpy as np

from operators.simulate.turn_taking import Floats, Prior


def chains(odds: Floats, overlaps: float, shifts: Floats) -> tuple[Floats, Floats]:
    """Return chances of a hold (3, N) and stationary shares of holds (N,) of chains whose log-odds are shifted."""
    chance = 1 / (1 + np.exp(-(odds[:, None] + shifts)))
    after_switch = (1 - overlaps) * chance[1] + overlaps * chance[2]
    return chance, after_switch / (1 - chance[0] + after_switch)


def tempo_of_switches(prior: Prior) -> float:
    """Return the mean score of conversations' tempo over changes of speaker, which lively conversations have more of.

    Offsets keep their distribution over all changes of speaker if it is taken off.
    """
    if not prior.liveliness[0]:
        return 0.0
    nodes, weights = np.polynomial.hermite_e.hermegauss(21)
    shares = np.clip(np.array(prior.hold_after), 1e-6, 1 - 1e-6)
    overlaps = float((np.array(prior.offset_s) < 0).mean())
    _, hold = chains(np.log(shares / (1 - shares)), overlaps, prior.liveliness[0] * nodes)
    switches = weights * (1 - hold)
    return float(prior.liveliness_correlation[0] * (switches * nodes).sum() / switches.sum())


def livelinesses(prior: Prior, normals: Sequence[float], tempo: float) -> tuple[float, float]:
    """Return a conversation's holds as a shift of log-odds, and backchannels as a factor.

    Args:
        prior: with spreads and correlations.
        normals: two standard normal draws.
        tempo: the conversation's standard normal score of offsets.
    """
    late_hold, late_back, hold_back = prior.liveliness_correlation
    hold = late_hold * tempo + np.sqrt(max(0.0, 1 - late_hold**2)) * normals[0]
    rest = np.sqrt(max(1e-9, 1 - late_hold**2))
    mixed = np.clip((hold_back - late_hold * late_back) / rest, -1.0, 1.0)
    left = np.sqrt(max(0.0, 1 - late_back**2 - mixed**2))
    back = late_back * tempo + mixed * normals[0] + left * normals[1]
    of_hold, of_back = prior.liveliness
    return float(of_hold * hold), float(np.exp(of_back * back - of_back**2 / 2))


def hosts_dispersion(prior: Prior) -> float:
    """Return the shape of the gamma distribution that is left to hosts when conversations differ too."""
    of_conversations = float(np.exp(prior.liveliness[1] ** 2) - 1)
    return 1 / max(1e-3, (1 + 1 / prior.backchannel_dispersion) / (1 + of_conversations) - 1)


def central_holds(shares: Sequence[float], overlaps: float, spread: float) -> tuple[float, float, float]:
    """Return the chances of a hold in the average conversation, from the shares over all of them.

    Steady conversations have more holds, so that what follows a hold is seen in them more often than elsewhere: the
    shares over all mix the chain with how conversations differ. Solved over a normal spread of log-odds, each
    conversation's chain at its stationary state.
    """
    wanted = np.clip(np.array(shares), 0.01, 0.99)
    if spread <= 0:
        return tuple(shares)  # type: ignore[return-value]
    nodes, weights = np.polynomial.hermite_e.hermegauss(21)
    goal = np.log(wanted / (1 - wanted))
    odds = goal.copy()
    for _ in range(200):
        chance, hold = chains(odds, overlaps, spread * nodes)
        seen = np.stack([hold, (1 - hold) * (1 - overlaps), (1 - hold) * overlaps]) * weights
        mean = (seen * chance).sum(1) / seen.sum(1)
        odds += 0.7 * (goal - np.log(mean / (1 - mean)))
    found: list[float] = (1 / (1 + np.exp(-odds))).round(6).tolist()
    return (found[0], found[1], found[2])
