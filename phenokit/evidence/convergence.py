"""Whether Markov chains agree: rank-normalised split R-hat and effective sample sizes.

Vehtari, Gelman, Simpson, Carpenter & Bürkner, Bayesian Analysis 16 (2021),
doi:10.1214/20-BA1221. Arrays are ``(chain, draw)``.
"""

import numpy as np
from jaxtyping import Float64
from scipy.special import ndtri
from scipy.stats import rankdata

Array = np.ndarray


def r_hat(draws: Float64[Array, "chain draw"]) -> float:
    """Rank-normalised split R-hat: the larger of bulk and tails; NaN of a constant.

    Examples
    --------
    >>> chains = np.random.default_rng(1).normal(size=(4, 500))
    >>> r_hat(chains) < 1.01 < r_hat(chains + np.arange(4)[:, None])
    True
    """
    halves = _split(draws)
    folded = np.abs(halves - np.median(halves))
    return max(_split_r_hat(_normalised(halves)), _split_r_hat(_normalised(folded)))


def ess_bulk(draws: Float64[Array, "chain draw"]) -> float:
    """Effective number of independent draws, for the centre of the distribution."""
    return effective_size(_normalised(_split(draws)))


def ess_tail(draws: Float64[Array, "chain draw"]) -> float:
    """Effective number of independent draws for the 5 % or the 95 % quantile: the fewer."""
    halves = _split(draws)
    sizes = [
        effective_size((halves <= np.quantile(halves, q)).astype(np.float64))
        for q in (0.05, 0.95)
    ]
    return min(sizes)


def effective_size(halves: Float64[Array, "chain draw"]) -> float:
    """Effective sample size of chains as they are, by Geyer's initial monotone sequence."""
    n_chains, n = halves.shape
    centred = halves - halves.mean(axis=1, keepdims=True)
    length = 1 << (2 * n - 1).bit_length()
    spectrum = np.fft.rfft(centred, length, axis=1)
    power = np.fft.irfft(spectrum * spectrum.conj(), length, axis=1)
    covariance = power[:, :n] / n
    within = covariance[:, 0].mean() * n / (n - 1)
    if within == 0 or not np.isfinite(within):
        return float("nan")
    pooled = within * (n - 1) / n
    if n_chains > 1:
        pooled += halves.mean(axis=1).var(ddof=1)
    rho = 1 - (within - covariance.mean(axis=0)) / pooled
    rho[0] = 1.0
    pairs = rho[: n // 2 * 2].reshape(-1, 2).sum(axis=1)
    negative = np.flatnonzero(pairs < 0)
    n_pairs = int(negative[0]) if len(negative) else len(pairs)
    monotone = np.minimum.accumulate(pairs[:n_pairs])
    tau = -1 + 2 * monotone.sum()
    if n_pairs < len(pairs):
        tau += max(rho[2 * n_pairs], 0.0)  # the first odd lag left out, as Stan does
    size = n_chains * n
    return float(size / max(tau, 1 / np.log10(size)))


def _split(draws: Float64[Array, "chain draw"]) -> Float64[Array, "half half_draw"]:
    """Each chain as two of half its length; a middle draw is left out."""
    n = draws.shape[1]
    return np.concatenate([draws[:, : n // 2], draws[:, n - n // 2 :]])


def _normalised(draws: Float64[Array, "chain draw"]) -> Float64[Array, "chain draw"]:
    """Normal scores of the pooled ranks."""
    ranks = rankdata(draws).reshape(draws.shape)
    return ndtri((ranks - 0.375) / (draws.size + 0.25))


def _split_r_hat(halves: Float64[Array, "chain draw"]) -> float:
    n = halves.shape[1]
    within = halves.var(axis=1, ddof=1).mean()
    if within == 0:
        return float("nan")
    between = n * halves.mean(axis=1).var(ddof=1)
    return float(np.sqrt((between / within + n - 1) / n))
