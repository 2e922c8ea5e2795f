"""A calibrated classifier where the diagnosis is rarer, or commoner, than in training.

What a model's card and calibration say of one label, moved to a prevalence that somebody
states: the probability of a recording, and what a finding is worth at the label's
threshold. It rests on label shift (`evidence.prevalence_shift`). The risk of patients who
were never tested is another question with another model, and shares nothing with this one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isnan, nan
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from phenokit.evidence.predictive_values import OperatingPoint, predictive_values
from phenokit.evidence.prevalence_shift import (
    calibrate_after_shift,
    fit_prevalence,
    shift_to_prevalence,
)
from phenokit.evidence.rates import wilson_interval
from phenokit.networks.card import SENSITIVITY, SPECIFICITY
from phenokit.report.explanation import format_interval
from phenokit.report.risk_numbers import format_per_1000, format_percent, format_risk
from phenokit.statements import clinical_name

ASSUMPTION = (
    "Assumes label shift: recordings with the finding look alike here and in training, and "
    "so do those without it; only their shares differ. It cannot correct another case mix, "
    "other devices, or a finding that is defined in another way."
)
GRID = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5)
"""Prevalences of the table beside the stated one."""
ALMOST_ALL = 0.945
"""From this share on a decimal tells how many are missing."""
FAR = 10.0
"""A shift that multiplies the odds by more than this, either way, is called far."""

NAMES = {
    "probability": "Probability of this recording",
    "threshold": "Threshold of the label (the same decision)",
    "ppv": "Positive predictive value: have it, of those flagged",
    "npv": "Negative predictive value: do not, of those not flagged",
    "cases_per_1000": "Have it, of 1,000 recordings",
    "flagged_per_1000": "Flagged by the model, of 1,000",
    "false_per_1000": "Flagged and do not have it, of 1,000",
    "missed_per_1000": "Have it and are not flagged, of 1,000",
}
"""The rows of `local_table`, in their order."""
_OF_RECORDING = ("probability", "threshold")
_SHARES = (*_OF_RECORDING, "ppv", "npv")


@dataclass(frozen=True)
class LocalPrevalence:
    """What somebody says of the population that a recording comes from.

    Attributes
    ----------
    value
        Fraction with the diagnosis, strictly between 0 and 1.
    interval
        Its 95 % interval; None where it is not known.
    source
        Where it comes from: population, age range, time window.

    Raises
    ------
    ValueError
        If a figure is not strictly between 0 and 1, or the interval does not hold the
        value.
    """

    value: float
    interval: tuple[float, float] | None = None
    source: str = ""

    def __post_init__(self) -> None:
        low, high = self.interval or (self.value, self.value)
        if not (low > 0 and high < 1 and 0 < self.value < 1):
            raise ValueError("The prevalence lies strictly between 0 % and 100 %.")
        if not low <= self.value <= high:
            raise ValueError("The interval has to hold the prevalence.")

    def words(self) -> str:
        """The figure with its interval, or that it has none."""
        low, high = self.interval or (nan, nan)
        return format_risk(self.value, low, high)


@dataclass(frozen=True)
class LabelOnCard:
    """What a bundle says of one label.

    Attributes
    ----------
    label
        Code.
    training_prevalence
        Fraction of cases that the model was trained on.
    tested
        Range of target prevalence that was tested; None where none was.
    threshold
        Probability from which on the label is a finding.
    point
        How often the threshold was right on the card's test fold; None where the card does
        not have it.
    no_point
        Why there is no `point`; empty where there is one.
    calibration
        A sentence on the calibration of the label.
    """

    label: str
    training_prevalence: float
    tested: tuple[float, float] | None
    threshold: float
    point: OperatingPoint | None
    no_point: str
    calibration: str

    @property
    def test_prevalence(self) -> float:
        """Fraction of cases on the test fold; NaN where the card does not have it."""
        if self.point is None:
            return nan
        n = self.point.n_positive + self.point.n_negative
        return self.point.n_positive / n

    @property
    def test_interval(self) -> tuple[float, float]:
        """95 % interval of the prevalence on the test fold (Wilson)."""
        if self.point is None:
            return nan, nan
        n = self.point.n_positive + self.point.n_negative
        low, high = wilson_interval(np.array([self.point.n_positive]), np.array([n]))
        return float(low[0]), float(high[0])


def label_on_card(
    card: Mapping[str, Any], calibration: Mapping[str, Any], label: str
) -> LabelOnCard:
    """What a bundle's card and calibration say of one label.

    Raises
    ------
    KeyError
        If the card does not have the label.
    """
    prevalence = card["prevalence"][label]
    low, high = prevalence.get("tested_low"), prevalence.get("tested_high")
    position = calibration["labels"].index(label)
    point, no_point = _point(card["performance"], label)
    return LabelOnCard(
        label=label,
        training_prevalence=float(prevalence["training"]),
        tested=None if low is None or high is None else (float(low), float(high)),
        threshold=float(calibration["threshold"][position]),
        point=point,
        no_point=no_point,
        calibration=_calibration(
            card["calibration"], label, calibration["pooled"][position]
        ),
    )


def _point(
    performance: Sequence[Mapping[str, Any]], label: str
) -> tuple[OperatingPoint | None, str]:
    """Counts behind sensitivity and specificity, or why there are none."""
    rows = {one["metric"]: one for one in performance if one["label"] == label}
    sensitivity, specificity = rows.get(SENSITIVITY), rows.get(SPECIFICITY)
    if sensitivity is None or specificity is None:
        return None, "the model's card has no sensitivity and specificity at the threshold"
    if any(row.get("value") is None for row in (sensitivity, specificity)):
        return None, (
            f"the test fold has {sensitivity['n_positive']:,} recordings with it of "
            f"{sensitivity['n']:,}"
        )
    n_positive = int(sensitivity["n_positive"])
    n_negative = int(sensitivity["n"]) - n_positive
    return (
        OperatingPoint(
            round(sensitivity["value"] * n_positive), n_positive,
            round(specificity["value"] * n_negative), n_negative,
        ),
        "",
    )  # fmt: skip


def _calibration(said: Mapping[str, Any], label: str, is_pooled: bool) -> str:
    slope = next((one for one in said["slope"] if one["label"] == label), None)
    shared = " It is calibrated together with other rare labels." if is_pooled else ""
    if slope is None or slope.get("value") is None:
        why = "" if slope is None else f": {slope['undefined']}"
        return f"The calibration slope of this label is not known{why}.{shared}"
    words = format_interval(slope["value"], slope["low"], slope["high"])
    return (
        f"Calibration slope on the test fold {words}, n = {slope['n']:,} (1 is ideal); a "
        f"shift adds one number to all log-odds and leaves the slope as it is.{shared}"
    )


def adjusted_probability(
    probability: float, of: LabelOnCard, local: LocalPrevalence
) -> tuple[float, float, float]:
    """A calibrated probability at the local prevalence, and its interval.

    The interval is that of the stated prevalence alone, NaN without one.
    """

    def shifted(prevalence: float) -> float:
        moved = shift_to_prevalence(
            np.array([probability]),
            training_prevalence=of.training_prevalence,
            cohort_prevalence=prevalence,
        )
        return float(moved[0])

    low, high = map(shifted, local.interval) if local.interval else (nan, nan)
    return shifted(local.value), low, high


def adjusted_words(probability: float, of: LabelOnCard, local: LocalPrevalence) -> str:
    """The adjusted probability as it stands in the last row below the logit.

    Examples
    --------
    >>> of = LabelOnCard("AFIB", 0.5, None, 0.4, None, "", "")
    >>> adjusted_words(0.5, of, LocalPrevalence(0.1, (0.05, 0.2)))
    '10 % (5–20)'
    >>> adjusted_words(0.5, of, LocalPrevalence(0.1))
    '10 % (no interval)'
    """
    words = format_quantity("probability", *adjusted_probability(probability, of, local))
    return words if local.interval else f"{words} (no interval)"


def local_table(
    of: LabelOnCard, local: LocalPrevalence, *, probability: float | None = None
) -> pd.DataFrame:
    """The figures at the model's own prevalence and at the local one.

    Parameters
    ----------
    probability
        Calibrated, of a recording; left out without one.

    Returns
    -------
    pd.DataFrame
        A row a `quantity` of `NAMES`: `name, model, model_low, model_high, local,
        local_low, local_high`; fractions, or patients of 1,000. NaN where it is not known.
        The threshold is the same decision on another scale. Intervals are those of
        `predictive_values`, and of a probability that of the stated prevalence.
    """
    own = _figures(of, LocalPrevalence(of.training_prevalence), probability)
    here = _figures(of, local, probability)
    ends = ("", "_low", "_high")
    return pd.DataFrame(
        {
            "quantity": list(here),
            "name": [NAMES[name] for name in here],
            **{
                f"model{end}": [own[name][k] for name in here] for k, end in enumerate(ends)
            },
            **{
                f"local{end}": [here[name][k] for name in here]
                for k, end in enumerate(ends)
            },
        }
    )


def _figures(
    of: LabelOnCard, stated: LocalPrevalence, probability: float | None
) -> dict[str, tuple[float, float, float]]:
    """Each of `NAMES` at one prevalence, with its interval."""
    low, high = stated.interval or (nan, nan)
    known = {"threshold": adjusted_probability(of.threshold, of, stated)}
    if probability is not None:
        known["probability"] = adjusted_probability(probability, of, stated)
    if of.point is None:
        known |= {name: (nan, nan, nan) for name in NAMES if name not in _OF_RECORDING}
        known["cases_per_1000"] = (1000 * stated.value, 1000 * low, 1000 * high)
    else:
        found = predictive_values(
            of.point, prevalence=stated.value, interval=stated.interval
        )
        known |= {
            str(name): (float(value), float(low), float(high))
            for name, value, low, high in found.itertuples(index=False)
        }
    return {name: known[name] for name in NAMES if name in known}


def prevalence_grid(
    of: LabelOnCard, local: LocalPrevalence, *, probability: float | None = None
) -> pd.DataFrame:
    """The same figures over a grid of prevalences, the stated and the model's among them.

    Returns
    -------
    pd.DataFrame
        A row a prevalence: `prevalence, which` ("stated", "training", or ""), the
        quantities of `NAMES` and, where they have an interval, `<quantity>_low` and
        `<quantity>_high`.
    """
    which = dict.fromkeys(GRID, "")
    which |= {of.training_prevalence: "training", local.value: "stated"}
    rows = []
    for prevalence in sorted(which):
        row: dict[str, Any] = {"prevalence": prevalence, "which": which[prevalence]}
        figures = _figures(of, LocalPrevalence(prevalence), probability)
        for name, (value, low, high) in figures.items():
            row[name] = value
            if name in ("ppv", "npv"):
                row |= {f"{name}_low": low, f"{name}_high": high}
        rows.append(row)
    return pd.DataFrame(rows)


def format_quantity(quantity: str, value: float, low: float, high: float) -> str:
    """A figure of `local_table` in words; near 100 % with a decimal.

    Examples
    --------
    >>> format_quantity("ppv", 0.19, 0.15, 0.24)
    '19 % (15–24)'
    >>> format_quantity("npv", 0.9962, 0.99, 0.9993)
    '99.6 % (99.0–99.9)'
    >>> format_quantity("flagged_per_1000", 235.0, 200.0, 270.0)
    '235 (200–270)'
    """
    if isnan(value):
        return "not known"
    has_interval = not (isnan(low) or isnan(high)) and low < high
    if quantity not in _SHARES:
        return format_per_1000(value, low, high) if has_interval else f"{value:,.3g}"
    if value < ALMOST_ALL:
        return format_risk(value, low, high) if has_interval else format_percent(value)
    words = "> 99.9 %" if value >= 0.9995 else f"{100 * value:.1f} %"
    ends = f" ({100 * low:.1f}–{100 * high:.1f})" if has_interval and value < 0.9995 else ""
    return words + ends


def local_warnings(of: LabelOnCard, local: LocalPrevalence) -> tuple[str, ...]:
    """What a reader has to know before trusting the shift."""
    found = []
    if not local.source.strip():
        found.append(
            "No source is given. Name the population, its age range and the time window."
        )
    if local.interval is None:
        found.append("No interval: how sure the stated prevalence is was not said.")
    if of.tested is None:
        found.append("The model's card names no range of prevalence that was tested.")
    elif not of.tested[0] <= local.value <= of.tested[1]:
        low, high = (format_percent(end) for end in of.tested)
        found.append(
            f"Outside the range that was tested on the model's card ({low} to {high})."
        )
    factor = _odds(local.value) / _odds(of.training_prevalence)
    if not 1 / FAR <= factor <= FAR:
        found.append(
            f"Far from training: all odds are {'multiplied' if factor > 1 else 'divided'} "
            f"by {max(factor, 1 / factor):.2g}. Small errors of the calibration weigh "
            "heavily there."
        )
    return tuple(found)


def _odds(prevalence: float) -> float:
    return prevalence / (1 - prevalence)


def point_words(of: LabelOnCard) -> str:
    """Where sensitivity and specificity come from, with n, or why there are none."""
    if of.point is None:
        return f"No predictive values: {of.no_point}."
    found, cleared = (
        format_quantity("ppv", *rate)
        for rate in (of.point.sensitivity, of.point.specificity)
    )
    return (
        f"At the threshold {format_percent(of.threshold)} on the card's test fold: "
        f"sensitivity {found} of {of.point.n_positive:,} with it, specificity {cleared} of "
        f"{of.point.n_negative:,} without it. Intervals of the table: 95 %, from these "
        "counts and the interval of the prevalence."
    )


def expected_calibration(
    of: LabelOnCard,
    local: LocalPrevalence,
    validation: tuple[Float[np.ndarray, " recording"], Bool[np.ndarray, " recording"]]
    | None = None,
) -> str:
    """How well calibrated the shifted probabilities are expected to be, in words.

    Parameters
    ----------
    validation
        Calibrated probabilities and what was found, of labelled recordings that training
        has not seen. Bundles do not hold them: without them the card's slope has to do.
    """
    if validation is None:
        return (
            "No expected calibration error here: the bundle holds no scores of labelled "
            f"recordings. {of.calibration}"
        )
    found = calibrate_after_shift(
        *validation,
        training_prevalence=of.training_prevalence,
        cohort_prevalence=local.value,
    )
    return (
        f"Expected calibration error at {format_percent(local.value)}: "
        f"{100 * found.expected_calibration_error:.2g} percentage points, "
        f"{100 * found.error_by_chance:.2g} by chance alone, "
        f"{100 * found.error_without_shift:.2g} without the shift "
        f"(n = {found.n:,}, {found.n_cases:,} with it)."
    )


def prevalence_of_scores(
    probability: Float[np.ndarray, " recording"], of: LabelOnCard, *, name: str
) -> LocalPrevalence | None:
    """The prevalence that the scores of a cohort speak for; None if they speak for none.

    Parameters
    ----------
    probability
        Calibrated, of the cohort's recordings; NaN where one was not scored.
    name
        Of the cohort, for the source.
    """
    found = fit_prevalence(probability, training_prevalence=of.training_prevalence)
    if not (found.low > 0 and 0 < found.prevalence < 1 and found.high < 1):
        return None
    return LocalPrevalence(
        found.prevalence,
        (found.low, found.high),
        f"fitted to the scores of {found.n:,} recordings of {name}, not to diagnoses",
    )


def export_table(
    of: LabelOnCard,
    local: LocalPrevalence,
    *,
    probability: float,
    model: str,
    bundle_hash: str,
    record_id: str,
) -> pd.DataFrame:
    """The figures as rows that stand alone, with what they rest on."""
    low, high = local.interval or (nan, nan)
    return local_table(of, local, probability=probability).assign(
        record_id=record_id,
        label=of.label,
        label_name=clinical_name(of.label),
        training_prevalence=of.training_prevalence,
        local_prevalence=local.value,
        local_prevalence_low=low,
        local_prevalence_high=high,
        source=local.source,
        assumption=ASSUMPTION,
        warnings=" ".join(local_warnings(of, local)),
        model=model,
        bundle_hash=bundle_hash,
    )
