"""Predicted probabilities in a cohort where the diagnosis is rarer than in training.

    shift_to_prevalence      move the probabilities to a stated prevalence
    fit_prevalence           the prevalence that the probabilities of a cohort speak for
    calibrate_after_shift    how well calibrated they will be there, by labelled recordings

All three assume label shift: cases look alike in both populations and so do controls, and
only their shares differ (Saerens, Latinne & Decaestecker 2002,
doi:10.1162/089976602753284446). The selective-labels model of risk does not assume that
and shares nothing with this module. Nothing here corrects a change of case mix;
`fit_prevalence` far from the stated prevalence is a sign of one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import pi, sqrt

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Float64

from phenokit.evidence.rates import Z_95, wilson_interval


def shift_to_prevalence(
    probability: Float[np.ndarray, " recording"],
    *,
    training_prevalence: float,
    cohort_prevalence: float,
) -> Float[np.ndarray, " recording"]:
    """Move predicted probabilities from the training set to a cohort.

    A classifier trained on a set rich in cases is too sure of the diagnosis where
    it is rare. If cases look alike in both, only the prior differs and every log-odds
    moves by the same amount. This corrects prevalence; it cannot correct case mix.

    Parameters
    ----------
    probability
        Predicted P(case), shape ``(recording,)``; NaN where a recording was not scored.
    training_prevalence, cohort_prevalence
        Fraction of cases, strictly between 0 and 1.

    Returns
    -------
    np.ndarray
        P(case) in the cohort, shape ``(recording,)``; NaN stays NaN.

    Raises
    ------
    ValueError
        If a prevalence is not strictly between 0 and 1, or a probability not within.

    References
    ----------
    Saerens, Latinne & Decaestecker (2002), doi:10.1162/089976602753284446.

    Examples
    --------
    >>> shift_to_prevalence(np.array([0.5]), training_prevalence=0.5, cohort_prevalence=0.1)
    array([0.1])
    """
    _check_prevalence("training", training_prevalence)
    _check_prevalence("cohort", cohort_prevalence)
    _check_probability(probability)
    # Not by logits: 0 and 1 stay what they are, and small odds keep their digits.
    case = probability * (cohort_prevalence / training_prevalence)
    control = (1 - probability) * ((1 - cohort_prevalence) / (1 - training_prevalence))
    return case / (case + control)


@dataclass(frozen=True)
class PrevalenceFit:
    """The prevalence of a cohort by its predicted probabilities alone.

    Attributes
    ----------
    prevalence
        Maximum likelihood estimate. Unless it lies at 0 or 1, it is also the mean of the
        probabilities that are shifted to it.
    low, high
        95 % interval of the profile likelihood. It knows the number of recordings; it does
        not know that a classifier may be badly calibrated or the case mix another.
    n
        Recordings with a probability.
    """

    prevalence: float
    low: float
    high: float
    n: int


def fit_prevalence(
    probability: Float[np.ndarray, " recording"], *, training_prevalence: float
) -> PrevalenceFit:
    """The prevalence that the predicted probabilities of an unlabelled cohort speak for.

    A recording of probability p is p / training_prevalence as likely under a case as
    (1 - p) / (1 - training_prevalence) under a control; the mixture of the two has one
    unknown, and its log-likelihood one maximum, the fixed point of Saerens' iteration.

    Parameters
    ----------
    probability
        Calibrated P(case) at the training prevalence; NaN where a recording was not scored.
    training_prevalence
        Fraction of cases, strictly between 0 and 1.

    Raises
    ------
    ValueError
        If the prevalence is not strictly between 0 and 1, a probability is not within, or
        there is none.
    """
    _check_prevalence("training", training_prevalence)
    _check_probability(probability)
    known = probability[~np.isnan(probability)].astype(np.float64)
    if not len(known):
        raise ValueError("no recording has a probability")
    case = known / training_prevalence
    control = (1 - known) / (1 - training_prevalence)

    def log_likelihood(prevalence: float) -> float:
        with np.errstate(divide="ignore"):
            return float(np.log(prevalence * case + (1 - prevalence) * control).sum())

    def rises(prevalence: float) -> bool:
        with np.errstate(divide="ignore"):
            mixed = prevalence * case + (1 - prevalence) * control
            return float(((case - control) / mixed).sum()) > 0

    best = _last_true(rises, 0.0, 1.0)
    enough = log_likelihood(best) - Z_95**2 / 2
    low = 1 - _last_true(lambda below: log_likelihood(1 - below) > enough, 1 - best, 1.0)
    high = _last_true(lambda above: log_likelihood(above) > enough, best, 1.0)
    return PrevalenceFit(best, low, high, len(known))


@dataclass(frozen=True)
class ShiftedCalibration:
    """How well calibrated shifted probabilities are expected to be in the cohort.

    Attributes
    ----------
    table
        A row a bin of the shifted probability: ``n, cases`` (as they were counted)``,
        share`` (of the cohort that falls into the bin)``, predicted`` (mean)``, observed``
        (rate of cases at the cohort's prevalence)``, conf_int_1, conf_int_2`` (95 %).
    expected_calibration_error
        Mean distance of predicted and observed over the cohort.
    error_by_chance
        What it would be on average, with these counts, were the calibration perfect.
    error_without_shift
        What it would be in the cohort with the probabilities left as they are.
    mean_predicted, cohort_prevalence
        Equal if the calibration holds on the whole.
    n, n_cases
        Labelled recordings with a probability.
    """

    table: pd.DataFrame
    expected_calibration_error: float
    error_by_chance: float
    error_without_shift: float
    mean_predicted: float
    cohort_prevalence: float
    n: int
    n_cases: int


def calibrate_after_shift(
    probability: Float[np.ndarray, " recording"],
    is_case: Bool[np.ndarray, " recording"],
    *,
    training_prevalence: float,
    cohort_prevalence: float,
    n_bins: int = 10,
) -> ShiftedCalibration:
    """How well calibrated the shifted probabilities are expected to be in the cohort.

    The labelled recordings may hold any share of cases: cases and controls get the case
    weights that bring them to the cohort's prevalence.

    Parameters
    ----------
    probability
        Predicted P(case), before the shift; NaN where a recording was not scored.
    is_case
        What was found; recordings that training has not seen.
    training_prevalence, cohort_prevalence
        Of the shift, strictly between 0 and 1.
    n_bins
        Bins with equally many recordings; equal probabilities share a bin.

    Raises
    ------
    ValueError
        As `shift_to_prevalence`, and if there is no case or no control.
    """
    is_known = ~np.isnan(probability)
    before = probability[is_known].astype(np.float64)
    case = is_case[is_known]
    n, n_cases = len(case), int(case.sum())
    if n_cases in (0, n):
        raise ValueError("calibration needs labelled cases and controls")
    shifted = shift_to_prevalence(
        before, training_prevalence=training_prevalence, cohort_prevalence=cohort_prevalence
    )
    sampled = n_cases / n
    weight = np.where(
        case, cohort_prevalence / sampled, (1 - cohort_prevalence) / (1 - sampled)
    )

    def to_cohort(rate: Float64[np.ndarray, " bin"]) -> Float64[np.ndarray, " bin"]:
        return shift_to_prevalence(
            rate, training_prevalence=sampled, cohort_prevalence=cohort_prevalence
        )

    table = _bins(shifted, case, weight, n_bins)
    low, high = wilson_interval(table["cases"].to_numpy(), table["n"].to_numpy())
    table["conf_int_1"], table["conf_int_2"] = to_cohort(low), to_cohort(high)
    predicted, share = table["predicted"].to_numpy(), table["share"].to_numpy()
    # By the delta method: the rate among the labelled that would be seen were the
    # prediction right, and how far it moves the rate in the cohort.
    right = shift_to_prevalence(
        predicted, training_prevalence=cohort_prevalence, cohort_prevalence=sampled
    )
    counted = np.sqrt(np.maximum(right * (1 - right) * table["n"].to_numpy(), 1e-300))
    spread = predicted * (1 - predicted) / counted
    return ShiftedCalibration(
        table=table,
        expected_calibration_error=_distance(table),
        error_by_chance=float(share @ spread) * sqrt(2 / pi),
        error_without_shift=_distance(_bins(before, case, weight, n_bins)),
        mean_predicted=float(weight @ shifted) / n,
        cohort_prevalence=cohort_prevalence,
        n=n,
        n_cases=n_cases,
    )


def _bins(
    probability: Float64[np.ndarray, " recording"],
    is_case: Bool[np.ndarray, " recording"],
    weight: Float64[np.ndarray, " recording"],
    n_bins: int,
) -> pd.DataFrame:
    edges = np.unique(np.quantile(probability, np.arange(1, n_bins) / n_bins))
    of_bin = np.unique(np.searchsorted(edges, probability), return_inverse=True)[1]
    total = np.bincount(of_bin, weight)
    return pd.DataFrame(
        {
            "n": np.bincount(of_bin),
            "cases": np.bincount(of_bin[is_case], minlength=len(total)),
            "share": total / weight.sum(),
            "predicted": np.bincount(of_bin, weight * probability) / total,
            "observed": np.bincount(of_bin, weight * is_case) / total,
        }
    )


def _distance(table: pd.DataFrame) -> float:
    return float((table["share"] * (table["predicted"] - table["observed"]).abs()).sum())


def _last_true(holds: Callable[[float], bool], low: float, high: float) -> float:
    """The last place in an interval, from its low end on, where a condition still holds."""
    if holds(high) or not holds(low):
        return high if holds(high) else low
    for _ in range(55):  # of the bits of a double
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def _check_prevalence(which: str, prevalence: float) -> None:
    if not 0 < prevalence < 1:
        raise ValueError(
            f"the {which} prevalence must lie strictly between 0 and 1, not {prevalence:g}"
            + (" (a percentage?)" if 1 < prevalence <= 100 else "")
        )


def _check_probability(probability: Float[np.ndarray, " recording"]) -> None:
    if np.any((probability < 0) | (probability > 1)):
        raise ValueError("a probability lies outside 0 to 1")
