"""How far a patient's risk depends on choices that the data cannot tell apart.

Predictive multiplicity (Watson-Daniels, Parkes & Ustun, AAAI 2023, arXiv 2206.01131) asks
how a prediction differs between models that fit about equally well. Here the models are
settings of the selective-labels model: the stated prevalence within its interval, one
feature more or less that may affect testing, uniform or normal unseen risk, the scale of
its prior. A setting is kept if at its mode the log-likelihood of the observed data is
within 2 of the best (a departure: the paper bounds the training loss).

    settings_around       which settings
    fit_by_laplace        how one is fitted: `SelectiveLabelsModel`, nested Laplace
    fit_viable_range      per patient the range; over patients, ambiguity and discrepancy

The range is of posterior means. It is no interval of uncertainty, which stands beside it.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Float64

from phenokit.errors import AnalysisRefused, BadInput

WITHIN = 2.0
"""Log-likelihood that a setting may lose against the best and still be kept."""

Array = np.ndarray


@dataclass(frozen=True)
class Setting:
    """What is chosen before a fit.

    Attributes
    ----------
    prevalence
        Stated; None without a constraint.
    testing_features
        Features that may affect testing beyond risk.
    kind
        Law of the unseen risk.
    shape_scale
        Scale of the half-normal prior of its width.
    """

    prevalence: float | None
    testing_features: tuple[str, ...]
    kind: Literal["uniform", "normal"] = "uniform"
    shape_scale: float = 3.0


@dataclass(frozen=True)
class SettingFit:
    """What a setting says.

    Attributes
    ----------
    log_likelihood
        Of the observed data at the mode, without priors and the prevalence term.
    risk
        P(case) of each patient.
    """

    log_likelihood: float
    risk: Float64[Array, " patient"]


@dataclass(frozen=True)
class ViableRange:
    """Ranges of risk over the settings that were kept.

    Attributes
    ----------
    stated
        Risk of each patient by the stated setting.
    low, high
        Smallest and largest risk over the kept settings.
    threshold
        Risk from which on the decision is another.
    within
        Log-likelihood below the best up to which a setting was kept.
    ambiguity
        Share of patients whose decision differs from the stated one in some kept setting.
    discrepancy
        Largest share whose decision one kept setting changes.
    settings
        A row a setting, the stated one first: its choices, ``log_likelihood, mean_risk,
        share_flipped, kept`` and, where it could not be fitted, the reason in ``note``.
    """

    stated: Float64[Array, " patient"]
    low: Float64[Array, " patient"]
    high: Float64[Array, " patient"]
    threshold: float
    within: float
    ambiguity: float
    discrepancy: float
    settings: pd.DataFrame

    @property
    def n_settings(self) -> int:
        """Settings that were tried."""
        return len(self.settings)

    @property
    def n_kept(self) -> int:
        """Settings that explain the data about as well as the best."""
        return int(self.settings["kept"].sum())

    def sentence(self) -> str:
        """The result in words."""
        n = len(self.stated)
        width = float(np.median(self.high - self.low))
        text = (
            f"{self.n_kept} of {self.n_settings} settings explain the data within "
            f"{self.within:g} of the best log-likelihood. Over them the risk of a patient "
            f"ranges over {width:.1%} (median of {n:,}); at a threshold of "
            f"{self.threshold:.3g} the decision of {self.ambiguity:.1%} changes in some "
            f"setting, and of {self.discrepancy:.1%} in a single one."
        )
        if not self.settings["kept"].iloc[0]:
            text += " The stated setting is not among them."
        if n_failed := int((self.settings["note"] != "").sum()):
            text += f" {n_failed} could not be fitted."
        return text


def settings_around(
    stated: Setting,
    *,
    features: Sequence[str],
    prevalence_interval: tuple[float, float] | None = None,
    shape_scales: Sequence[float] = (2.0, 3.0, 5.0),
    crossed: bool = True,
) -> tuple[Setting, ...]:
    """Settings that somebody might have chosen as well.

    Parameters
    ----------
    stated
        The one that was chosen; it comes first.
    features
        All features: each in turn joins or leaves those that may affect testing.
    prevalence_interval
        95 % interval of the stated prevalence, whose ends are tried.
    shape_scales
        Scales of the prior of the width of the unseen risk.
    crossed
        Every combination; else one change at a time, which is quicker and narrower.

    Examples
    --------
    >>> stated = Setting(0.04, ("age",))
    >>> one = settings_around(stated, features=["age", "sex"], crossed=False)
    >>> [setting.testing_features for setting in one[:3]]
    [('age',), (), ('age', 'sex')]
    >>> len(one), len(settings_around(stated, features=["age", "sex"]))
    (6, 18)
    """
    prevalences = [stated.prevalence, *(prevalence_interval or ())]
    lists = [stated.testing_features]
    for name in features:
        kept = {*stated.testing_features} ^ {name}
        lists.append(tuple(one for one in features if one in kept))
    kinds: list[Literal["uniform", "normal"]] = ["uniform", "normal"]
    scales = [*shape_scales]
    if crossed:
        choices = [Setting(*one) for one in product(prevalences, lists, kinds, scales)]
    else:
        choices = [
            *(replace(stated, prevalence=one) for one in prevalences),
            *(replace(stated, testing_features=one) for one in lists),
            *(replace(stated, kind=one) for one in kinds),
            *(replace(stated, shape_scale=one) for one in scales),
        ]
    return tuple(dict.fromkeys([stated, *choices]))


def fit_by_laplace(
    X: pd.DataFrame,
    tested: Array | pd.Series,
    outcome: Array | pd.Series,
    *,
    prevalence_sd: float | None,
    seed: int,
    n_draws: int = 2_000,
) -> Callable[[Setting], SettingFit]:
    """How one setting is fitted: nested Laplace, risk of everybody in the population.

    Parameters
    ----------
    X, tested, outcome, prevalence_sd, seed
        As in `SelectiveLabelsModel.fit`.
    n_draws
        Of the posterior; means of risk need few.
    """
    # Only here: the ranges themselves need no model.
    from phenokit.evidence.risk import SelectiveLabelsModel

    def fit(setting: Setting) -> SettingFit:
        model = SelectiveLabelsModel(
            setting.kind,
            shape_scale=setting.shape_scale,
            n_laplace=n_draws,
            checks=False,
        )
        model.fit(
            X,
            tested,
            outcome,
            prevalence=setting.prevalence,
            prevalence_sd=None if setting.prevalence is None else prevalence_sd,
            testing_features=setting.testing_features,
            seed=seed,
        )
        risk = model.predict_proba(X, population="all")[:, 1]
        return SettingFit(model.diagnostics_.log_likelihood_at_mode, risk)

    return fit


def fit_viable_range(
    settings: Sequence[Setting],
    fit: Callable[[Setting], SettingFit],
    *,
    threshold: float,
    within: float = WITHIN,
) -> ViableRange:
    """Fit every setting, keep those that explain the data, and range over them.

    Parameters
    ----------
    settings
        The stated one first; see `settings_around`.
    fit
        Fits one; see `fit_by_laplace`. Where it refuses, the setting is not kept and its
        row says why.
    threshold
        Risk at or above which something is done.
    within
        Log-likelihood below the best that is still kept.

    Raises
    ------
    AnalysisRefused, BadInput
        Of the stated setting itself.
    """
    if not 0 < threshold < 1:
        raise ValueError(f"the threshold must lie between 0 and 1, not {threshold:g}")
    fits: list[SettingFit | None] = []
    notes: list[str] = []
    for k, setting in enumerate(settings):
        try:
            fits.append(fit(setting))
            notes.append("")
        except (AnalysisRefused, BadInput) as refusal:
            if k == 0:
                raise
            fits.append(None)
            notes.append(str(refusal))
    stated = fits[0]
    assert stated is not None
    likelihoods = np.array([-np.inf if one is None else one.log_likelihood for one in fits])
    kept = likelihoods >= likelihoods.max() - within
    risk = np.stack(
        [one.risk for one, keep in zip(fits, kept, strict=True) if one and keep]
    )
    acts = stated.risk >= threshold
    flipped = (risk >= threshold) != acts
    shares = [
        np.nan if one is None else float(((one.risk >= threshold) != acts).mean())
        for one in fits
    ]
    table = pd.DataFrame([asdict(setting) for setting in settings]).assign(
        testing_features=[", ".join(setting.testing_features) for setting in settings],
        log_likelihood=np.where(np.isinf(likelihoods), np.nan, likelihoods),
        mean_risk=[np.nan if one is None else float(one.risk.mean()) for one in fits],
        share_flipped=shares,
        kept=kept,
        note=notes,
    )
    return ViableRange(
        stated=stated.risk,
        low=risk.min(axis=0),
        high=risk.max(axis=0),
        threshold=threshold,
        within=within,
        ambiguity=float(flipped.any(axis=0).mean()),
        discrepancy=float(flipped.mean(axis=1).max()),
        settings=table,
    )
