"""Student's t distribution by the continued fraction of the incomplete beta function, in plain arithmetic.

Written out, so that the same few lines in another language give the same digits.
"""

from __future__ import annotations

import math
from functools import lru_cache

STEPS = 500
SMALLEST = 1e-300  # keeps Lentz's divisions finite
CLOSE = 1e-15


def two_sided_p(t: float, df: float) -> float:
    """P(|T| >= |t|) with `df` > 0 degrees of freedom; 1 where `t` is 0, 0 where it is infinite."""
    if math.isinf(t):
        return 0.0
    square = t * t
    return incomplete_beta(df / (df + square), square / (df + square), df / 2, 0.5)


def incomplete_beta(x: float, rest: float, a: float, b: float) -> float:
    """The regularised incomplete beta function I_x(a, b); `rest` is 1 - x, given so that no digits are lost."""
    if x <= 0 or rest <= 0:
        return float(rest <= 0)
    if x > (a + 1) / (a + b + 2):  # the fraction converges fast on the other side
        return 1.0 - incomplete_beta(rest, x, b, a)
    front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log(rest)
    return math.exp(front) * _fraction(x, a, b) / a


def _fraction(x: float, a: float, b: float) -> float:
    """The continued fraction (Abramowitz and Stegun 26.5.8) by Lentz's method."""
    c, d = 1.0, 1.0 / _away(1.0 - (a + b) * x / (a + 1))
    value = d
    for m in range(1, STEPS):
        for numerator in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1.0 / _away(1.0 + numerator * d)
            c = _away(1.0 + numerator / c)
            value *= c * d
        if abs(c * d - 1.0) < CLOSE:
            break
    return value


def _away(value: float) -> float:
    return value if abs(value) > SMALLEST else SMALLEST


@lru_cache(maxsize=1024)
def t_quantile(df: float, level: float = 0.95) -> float:
    """The t beyond which |T| lies with probability 1 - `level`, by bisection."""
    low, high = 0.0, 1.0
    while two_sided_p(high, df) > 1 - level:
        low, high = high, 2 * high
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if two_sided_p(middle, df) > 1 - level else (low, middle)
    return (low + high) / 2
