"""What a finding and its absence are worth where the diagnosis is rarer or commoner.

Sensitivity and specificity at a threshold are properties of cases and of controls, so under
label shift they stay what they are, and Bayes' rule gives the rest. As in
`prevalence_shift`, nothing here corrects a change of case mix.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pandas as pd
from jaxtyping import Float64

from phenokit.evidence.rates import Z_95, wilson_interval

N_DRAWS = 2048
"""Of each interval, from a fixed lattice: the same numbers every time."""

Draws = Float64[np.ndarray, " draw"]


@dataclass(frozen=True)
class OperatingPoint:
    """How often a threshold was right, in labelled recordings that training has not seen.

    Attributes
    ----------
    true_positives, n_positive
        Cases at or above the threshold, of all cases.
    true_negatives, n_negative
        Controls below the threshold, of all controls.
    """

    true_positives: int
    n_positive: int
    true_negatives: int
    n_negative: int

    def __post_init__(self) -> None:
        for right, of in (
            (self.true_positives, self.n_positive),
            (self.true_negatives, self.n_negative),
        ):
            if not 0 <= right <= of or of == 0:
                raise ValueError(f"{right} of {of} is not a rate")

    @property
    def sensitivity(self) -> tuple[float, float, float]:
        """Rate and its 95 % interval (Wilson)."""
        return _rate(self.true_positives, self.n_positive)

    @property
    def specificity(self) -> tuple[float, float, float]:
        """Rate and its 95 % interval (Wilson)."""
        return _rate(self.true_negatives, self.n_negative)


def predictive_values(
    point: OperatingPoint,
    *,
    prevalence: float,
    interval: tuple[float, float] | None = None,
) -> pd.DataFrame:
    """Predictive values of a threshold, and what 1,000 patients come to, at a prevalence.

    Valid under label shift, and if the labelled recordings are independent of one another.

    Parameters
    ----------
    point
        Counts at the threshold.
    prevalence, interval
        Of the population, strictly between 0 and 1, and its 95 % interval; without one the
        prevalence is taken as known.

    Returns
    -------
    pd.DataFrame
        Rows ``ppv, npv, cases_per_1000, flagged_per_1000, false_per_1000, missed_per_1000``
        by `quantity`, with `value` (by the observed rates; NaN for the predictive value of
        a finding that nobody has), `low` and `high`: 95 % interval over Jeffreys' posterior
        of both rates and, of the prevalence, a normal distribution on the scale of
        log-odds, split at its value so that it has the stated interval.

    Raises
    ------
    ValueError
        If a prevalence is not strictly between 0 and 1, or not within its interval.

    Examples
    --------
    >>> found = predictive_values(OperatingPoint(45, 50, 90, 100), prevalence=0.1)
    >>> found.set_index("quantity")["value"].round(3).to_dict()["ppv"]
    0.5
    """
    low, high = interval or (prevalence, prevalence)
    if not 0 < low <= prevalence <= high < 1:
        raise ValueError(
            "a prevalence and its interval must lie strictly between 0 and 1, in order; "
            f"these are {low:g}, {prevalence:g}, {high:g}"
        )
    drawn = _from_rates(
        _split_normal(_lattice(N_DRAWS)[0], prevalence, low, high),
        _posterior(point.true_positives, point.n_positive, 1),
        _posterior(point.true_negatives, point.n_negative, 2),
    )
    observed = _from_rates(
        np.array([prevalence]),
        np.array([point.true_positives / point.n_positive]),
        np.array([point.true_negatives / point.n_negative]),
    )
    rows = [
        (name, float(observed[name][0]), *np.quantile(drawn[name], [0.025, 0.975]))
        for name in observed
    ]
    return pd.DataFrame(rows, columns=pd.Index(["quantity", "value", "low", "high"]))


def _from_rates(
    prevalence: Draws, sensitivity: Draws, specificity: Draws
) -> dict[str, Draws]:
    """Bayes' rule, and the fourfold table of 1,000 patients."""
    found, missed = prevalence * sensitivity, prevalence * (1 - sensitivity)
    false, cleared = (1 - prevalence) * (1 - specificity), (1 - prevalence) * specificity
    with np.errstate(invalid="ignore"):
        return {
            "ppv": found / (found + false),
            "npv": cleared / (cleared + missed),
            "cases_per_1000": 1000 * prevalence,
            "flagged_per_1000": 1000 * (found + false),
            "false_per_1000": 1000 * false,
            "missed_per_1000": 1000 * missed,
        }


def _rate(right: int, of: int) -> tuple[float, float, float]:
    low, high = wilson_interval(np.array([right]), np.array([of]))
    return right / of, float(low[0]), float(high[0])


@lru_cache(maxsize=64)
def _posterior(right: int, of: int, axis: int) -> Draws:
    """Quantiles of Jeffreys' beta posterior of a rate, at one axis of the lattice."""
    from scipy.special import betaincinv

    return betaincinv(right + 0.5, of - right + 0.5, _lattice(N_DRAWS)[axis])


def _split_normal(share: Draws, middle: float, low: float, high: float) -> Draws:
    """Quantiles of log-odds with this median, 2.5 % and 97.5 %, as probabilities."""
    from scipy.special import expit, logit, ndtri

    z = ndtri(share)
    below = (logit(middle) - logit(low)) / Z_95
    above = (logit(high) - logit(middle)) / Z_95
    return expit(logit(middle) + z * np.where(z < 0, below, above))


def _lattice(n: int) -> Float64[np.ndarray, "3 draw"]:
    """Points that fill a cube evenly (Roberts' R3 sequence): no generator is needed."""
    root = 1.2207440846057596  # of x^4 = x + 1
    steps = root ** -np.arange(1.0, 4.0)
    return (0.5 + steps[:, None] * np.arange(1, n + 1)) % 1.0
