"""Numbers put together: each function takes (value, weight) pairs, in any order, and at least one.

Only the proportions of the weights count. Sums are exact before they are rounded, so that no order changes a digit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final

Pairs = Sequence[tuple[float, float]]
SURE: Final = 0.01  # a probability is taken as at least this far from 0 and 1: one member's certainty is no veto
_SLACK: Final = 1e-9  # of weights, which are sums of floats
_STEPS: Final = 200


def mean(pairs: Pairs) -> float:
    total = math.fsum(weight for _, weight in pairs)
    exact = math.fsum(value * (weight / total) for value, weight in pairs)
    return min(max(exact, min(value for value, _ in pairs)), max(value for value, _ in pairs))


def median(pairs: Pairs) -> float:
    """Where half of the weight lies on either side; between two values, their middle."""
    ordered = sorted(pairs)
    half = math.fsum(weight for _, weight in ordered) / 2
    for n, (value, _) in enumerate(ordered):
        below = math.fsum(weight for _, weight in ordered[: n + 1])
        if math.isclose(below, half, rel_tol=_SLACK) and n + 1 < len(ordered):
            return value if value == ordered[n + 1][0] else value / 2 + ordered[n + 1][0] / 2
        if below > half:
            return value
    return ordered[-1][0]


def trimmed_mean(pairs: Pairs, trim: float) -> float:
    """The mean of what is left when the share `trim` (below 0.5) of the weight is cut off at each end."""
    ordered = sorted(pairs)
    total = math.fsum(weight for _, weight in ordered)
    low, high = trim * total, (1 - trim) * total
    kept = []
    for n, (value, weight) in enumerate(ordered):
        start = math.fsum(each for _, each in ordered[:n])
        kept.append((value, max(0.0, min(start + weight, high) - max(start, low))))
    return mean(kept)


def geometric_odds(pairs: Pairs) -> float:
    """Of probabilities: the mean of the log-odds, as a probability."""
    logit = mean([(log_odds(min(max(value, SURE), 1 - SURE)), weight) for value, weight in pairs])
    return 1 / (1 + math.exp(-logit))


def log_odds(probability: float) -> float:
    return math.log(probability / (1 - probability))


def stays_ahead(leader: float, second: float) -> float:
    """The probability that a leader with so many votes is ahead of the second in the long run.

    Of a Beta(leader + 1, second + 1) posterior, the part above one half: the stopping rule of adaptive consistency
    (Aggarwal et al., 2023).
    """

    def density(at: float) -> float:
        return math.exp(leader * math.log(2 * at) + second * math.log(2 * (1 - at))) if 0 < at < 1 else _edge(at)

    def _edge(at: float) -> float:
        return 2.0 ** (leader if at else second) if (second if at else leader) == 0 else 0.0

    below, above = _area(density, 0.0, 0.5), _area(density, 0.5, 1.0)
    return above / (below + above)


def _area(curve: Callable[[float], float], start: float, end: float) -> float:
    """Simpson's rule."""
    width = (end - start) / _STEPS
    inner = math.fsum((4 if n % 2 else 2) * curve(start + n * width) for n in range(1, _STEPS))
    return (curve(start) + inner + curve(end)) * width / 3
