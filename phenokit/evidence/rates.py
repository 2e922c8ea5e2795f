"""Intervals of a rate and of the ratio of two rates."""

import numpy as np
from jaxtyping import Float64

Z_95 = 1.959963984540054
"""Quantile of the normal distribution that leaves 2.5 % above."""


def wilson_interval(
    cases: np.ndarray, n: np.ndarray
) -> tuple[Float64[np.ndarray, " group"], Float64[np.ndarray, " group"]]:
    """95 % interval of rates (Wilson 1927); it holds where no or every one is a case.

    NaN where there is nobody.

    Examples
    --------
    >>> low, high = wilson_interval(np.array([0, 5]), np.array([10, 10]))
    >>> low.round(3), high.round(3)
    (array([0.   , 0.237]), array([0.278, 0.763]))
    """
    total = np.where(np.asarray(n) > 0, n, np.nan)
    rate = cases / total
    centre = rate + Z_95**2 / (2 * total)
    half = Z_95 * np.sqrt(rate * (1 - rate) / total + Z_95**2 / (4 * total**2))
    low, high = (centre - half), (centre + half)
    scale = 1 + Z_95**2 / total
    return np.maximum(low / scale, 0.0), np.minimum(high / scale, 1.0)


def ratio_interval(
    cases: tuple[float | int, float | int], n: tuple[float | int, float | int]
) -> tuple[float, float, float]:
    """Ratio of the first rate to the second, and its 95 % interval.

    Normal for the logarithm (Katz et al. 1978, doi:10.2307/2530610). NaN where a rate is 0
    or nobody is in a group.

    Examples
    --------
    >>> [round(x, 2) for x in ratio_interval((20, 10), (100, 100))]
    [2.0, 0.99, 4.05]
    """
    if min(*cases, *n) <= 0:
        return float("nan"), float("nan"), float("nan")
    ratio = (cases[0] / n[0]) / (cases[1] / n[1])
    error = np.sqrt(1 / cases[0] - 1 / n[0] + 1 / cases[1] - 1 / n[1])
    factor = float(np.exp(Z_95 * error))
    return ratio, ratio / factor, ratio * factor


def poisson_interval(count: int) -> tuple[float, float]:
    """Exact 95 % interval of the mean of a Poisson count (Garwood 1936).

    Divided by the time in which it was counted, it is the interval of a rate.

    Examples
    --------
    >>> [round(limit, 3) for limit in poisson_interval(0) + poisson_interval(3)]
    [0.0, 3.689, 0.619, 8.767]
    """
    from scipy.stats import chi2

    low = 0.0 if count == 0 else float(chi2.ppf(0.025, 2 * count) / 2)
    return low, float(chi2.ppf(0.975, 2 * count + 2) / 2)
