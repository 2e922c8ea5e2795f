"""Many tests at once: corrected p-values, and p-values too small for a float.

Bonferroni and Benjamini-Hochberg (1995) over the tests that were done: a test that was not
done is NaN, is not counted, and stays NaN. Minus log10 of a p-value comes from the
logarithm of the normal tail, because p itself underflows to 0 beyond z = 38 and a plot
would draw the strongest findings at infinity.
"""

import numpy as np
from jaxtyping import Float


def bonferroni(p: Float[np.ndarray, " test"]) -> Float[np.ndarray, " test"]:
    """P-values times the number of tests done, at most 1.

    Parameters
    ----------
    p
        0 to 1; NaN where no test was done, which is not counted and stays NaN.

    Raises
    ------
    ValueError
        If a p-value is not between 0 and 1.

    Examples
    --------
    >>> bonferroni(np.array([0.01, np.nan, 0.6]))
    array([0.02,  nan, 1.  ])
    """
    done = _done(p)
    return np.minimum(p * done.sum(), 1.0)


def benjamini_hochberg(p: Float[np.ndarray, " test"]) -> Float[np.ndarray, " test"]:
    """Smallest false discovery rate at which each test is called (its q-value).

    Valid for independent and for positively dependent tests.

    Parameters
    ----------
    p
        0 to 1; NaN where no test was done, which is not counted and stays NaN.

    Raises
    ------
    ValueError
        If a p-value is not between 0 and 1.

    References
    ----------
    Benjamini & Hochberg (1995), doi:10.1111/j.2517-6161.1995.tb02031.x.

    Examples
    --------
    >>> benjamini_hochberg(np.array([0.01, np.nan, 0.04]))
    array([0.02,  nan, 0.04])
    """
    done = np.flatnonzero(_done(p))
    order = done[np.argsort(p[done], kind="stable")]
    ranks = np.arange(1, len(order) + 1)
    q = np.full(len(p), np.nan)
    # From the largest p down, so that q never falls while p rises; ties get one q.
    q[order] = np.minimum.accumulate((p[order] * len(order) / ranks)[::-1])[::-1]
    return q


def neg_log10_p_of_z(z: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """Minus log10 of the two-sided p-value of a standard normal statistic.

    Finite far beyond 10,000, where p itself is 0. NaN stays NaN.

    Examples
    --------
    >>> neg_log10_p_of_z(np.array([0.0, -1.959963984540054, 300.0])).round(3)
    array([0.0000000e+00, 1.3010000e+00, 1.9545827e+04])
    """
    from scipy.special import log_ndtr

    # max: -log10(1) is 0, not -0 or a rounding error below it.
    return np.maximum(-(np.log(2) + log_ndtr(-np.abs(z))) / np.log(10), 0.0)


def neg_log10_p_of_chi2(chi2: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """Minus log10 of the p-value of a chi-square statistic with one degree of freedom.

    It is the square of a normal statistic; scipy's own ``chi2.logsf`` gives minus infinity
    from 1,500 on.

    Raises
    ------
    ValueError
        If a statistic is negative.

    Examples
    --------
    >>> neg_log10_p_of_chi2(np.array([3.841458820694124, 46_000.0])).round(3)
    array([1.301000e+00, 9.991203e+03])
    """
    if (chi2 < 0).any():
        raise ValueError("a chi-square statistic is negative")
    return neg_log10_p_of_z(np.sqrt(chi2))


def _done(p: np.ndarray) -> np.ndarray:
    """Which tests were done; refuses what is not a p-value."""
    if ((p < 0) | (p > 1)).any():
        raise ValueError("a p-value is not between 0 and 1")
    return ~np.isnan(p)
