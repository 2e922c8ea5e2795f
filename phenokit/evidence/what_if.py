"""A fitted risk model under another prevalence, fast enough for a slider.

What is true of the whole table (prevalence, risk of the tested and the untested) stands in
the posterior draws, which `SelectiveLabelsModel.reweight` weighs anew. What depends on a
threshold needs the risk of patients: of a few hundred of them, evenly spaced over the order
of risk, so that their shares are those of all to within a part of a per cent.

    spread_patients   the patients that stand for all
    ask_what_if       the answer at one prevalence
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float64

from phenokit.evidence.psis import weighted_quantile
from phenokit.evidence.risk import SelectiveLabelsModel
from phenokit.evidence.risk_checks import Flag

Array = np.ndarray

N_SPREAD = 400
"""Patients that stand for all."""


class Estimate(NamedTuple):
    """A posterior mean with its 95 % interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class WhatIf:
    """What the model says of everybody under one stated prevalence.

    Attributes
    ----------
    stated, stated_sd
        The prevalence and its standard deviation.
    source
        ``"fit"``, ``"reweighted"`` or ``"refitted"``.
    is_provisional
        Whether too few draws are left after re-weighting, and no fit was made.
    k_hat, effective_size
        Of the weights.
    prevalence, risk_tested, risk_untested
        Of the patients of the table.
    cases, missed
        Expected cases, and expected cases among the untested, of 1,000 patients.
    threshold
        Risk from which on a patient is flagged.
    flagged
        Patients at or above the threshold, of 1,000.
    ppv, npv, sensitivity
        Share of the flagged with the outcome; of the others without it; of those with the
        outcome that are flagged. Expected from the model, which it cannot check. NaN where
        nobody is flagged, or everybody is.
    flags
        What a reader of these figures must know.
    seconds
        That the answer took.
    """

    stated: float
    stated_sd: float
    source: str
    is_provisional: bool
    k_hat: float
    effective_size: float
    prevalence: Estimate
    risk_tested: Estimate
    risk_untested: Estimate
    cases: Estimate
    missed: Estimate
    threshold: float
    flagged: float
    ppv: Estimate
    npv: Estimate
    sensitivity: Estimate
    flags: tuple[Flag, ...]
    seconds: float


def spread_patients(
    model: SelectiveLabelsModel, X: pd.DataFrame, *, n: int = N_SPREAD
) -> pd.DataFrame:
    """Rows of `X` evenly spaced over the order of risk; all of them if they are few.

    Parameters
    ----------
    model
        Fitted.
    X
        Features as in the fit.
    """
    if len(X) <= n:
        return X
    order = np.argsort(model.predict(X), kind="stable")
    return X.iloc[order[((np.arange(n) + 0.5) * len(X) / n).astype(np.int64)]]


def ask_what_if(
    model: SelectiveLabelsModel,
    patients: pd.DataFrame,
    tested: Bool[Array, " row"],
    *,
    prevalence: float,
    prevalence_sd: float,
    threshold: float,
    refit: bool = False,
) -> WhatIf:
    """The answer under another stated prevalence.

    Parameters
    ----------
    model
        Fitted, for an outcome of 0 or 1.
    patients
        Of `spread_patients`.
    tested
        Of the whole table.
    prevalence, prevalence_sd, refit
        As in `SelectiveLabelsModel.reweight`. Without `refit` the answer comes within
        tenths of a second and may be provisional.
    threshold
        Risk P(Y=1 | X) from which on a patient is flagged.

    Raises
    ------
    BadInput
        ``E_PREVALENCE`` outside the exact bounds.
    AnalysisRefused
        ``E_FIT`` if the new fit is not reliable.
    """
    start = time.perf_counter()
    asked = model.reweight(prevalence, prevalence_sd, refit=refit)
    found, weights = asked.posterior_.draws, asked.posterior_.weights.reshape(-1)
    untested = 1 - float(np.mean(tested))

    def of_all(name: str, times: float = 1.0) -> Estimate:
        return _estimate(times * found[name].reshape(-1), weights)

    risk = asked.risk_draws(patients)
    is_flagged = risk.mean(axis=1) >= threshold
    with np.errstate(invalid="ignore"):
        ppv = _mean_over(risk[is_flagged])
        npv = _mean_over(1 - risk[~is_flagged])
        sensitivity = risk[is_flagged].sum(axis=0) / risk.sum(axis=0)
    diagnostics = asked.diagnostics_
    return WhatIf(
        stated=prevalence,
        stated_sd=prevalence_sd,
        source=diagnostics.source,
        is_provisional=diagnostics.needs_refit,
        k_hat=diagnostics.k_hat,
        effective_size=diagnostics.importance_ess,
        prevalence=of_all("prevalence"),
        risk_tested=of_all("risk_tested"),
        risk_untested=of_all("risk_untested"),
        cases=of_all("prevalence", 1000.0),
        missed=of_all("risk_untested", 1000.0 * untested),
        threshold=threshold,
        flagged=1000 * float(is_flagged.mean()),
        ppv=_estimate(ppv),
        npv=_estimate(npv),
        sensitivity=_estimate(sensitivity),
        flags=tuple(asked.flags_),
        seconds=time.perf_counter() - start,
    )


def _mean_over(risk: Float64[Array, "row draw"]) -> Float64[Array, " draw"]:
    """Mean over rows; NaN where there is none."""
    return risk.sum(axis=0) / len(risk) if len(risk) else np.full(risk.shape[1], np.nan)


def _estimate(
    values: Float64[Array, " draw"], weights: Sequence[float] | Array | None = None
) -> Estimate:
    if np.isnan(values).any():
        return Estimate(np.nan, np.nan, np.nan)
    shares = np.full(len(values), 1 / len(values)) if weights is None else weights
    low, high = weighted_quantile(values, np.asarray(shares), np.array([0.025, 0.975]))
    return Estimate(float(np.asarray(shares) @ values), float(low), float(high))
