"""What simpler methods say where outcomes are known only for the tested.

    method                  assumes                                             outcome
    tested_only             testing says nothing of the outcome beyond X        0/1, number
    untested_as_negative    nobody who was not tested has it                    0/1
    ipw                     as tested_only; weights are 1 / P(tested | X)       0/1, number
    heckman_two_step        normal errors, those of testing among them          number

All are in one table, to stand beside the selective-labels model. An unseen reason that
raises both risk and testing breaks the first three, and none of them can show it: their fit
to the tested stays good, and so does the AUC, which sees ranks only. What differs is
the risk of the untested, the coefficients and the calibration.

Hard pseudo-labels (self-training at .5) are not offered: as long as nobody's risk among the
untested is above .5 they are untested_as_negative.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float64
from scipy import special

from phenokit.evidence.risk_table import check_table

Z_95 = 1.959963984540054
"""Quantile of the normal distribution that leaves 2.5 % above."""
SMALLEST_PROBABILITY = 0.01
"""Of being tested; smaller ones are taken for this, so that no weight exceeds 100."""
MAX_STEPS = 100
CONVERGED = 1e-20
"""Newton decrement a row before the last step of a fit."""
SEPARATED = 1e-12
"""Information a row below which an estimate has run away to infinity."""
MEANS = ("mean_risk", "risk_tested", "risk_untested")

Array = np.ndarray


@dataclass(frozen=True)
class Comparators:
    """Several methods on the same patients, side by side.

    Attributes
    ----------
    table
        A row a method and quantity: ``method, quantity, estimate, standard_error,
        conf_int_1, conf_int_2`` (95 %)``, n`` (rows that the method was fitted to)``,
        code`` (OK, or N_NOT_CONVERGED and no numbers). Quantities are ``intercept``, the
        features (log odds ratio, or change of the outcome, a unit), and

        - ``mean_risk, risk_tested, risk_untested``: of all, the tested, the untested;
          intervals are of these patients, not of others like them;
        - ``excess_among_tested``: mean predicted less mean observed outcome of the tested;
        - ``rho`` (heckman_two_step): covariance of the errors of outcome and testing, the
          latter of variance 1.
    risk
        A column a method, a row a patient: P(case), or the expected outcome; for
        heckman_two_step that given whether the patient was tested.
    n_tested, n_untested
        Patients.
    notes
        Sentences for the report.
    """

    table: pd.DataFrame
    risk: pd.DataFrame
    n_tested: int
    n_untested: int
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Fit:
    """An estimator that solves sum(scores) = 0, and what it predicts.

    Attributes
    ----------
    coefficients
        With the intercept first; further parameters may follow.
    influence
        A row a patient: their sum of squares is the robust variance.
    variance
        Of the coefficients: by the model, or the robust one.
    predicted, slopes
        Of each patient, and the derivatives by the coefficients.
    n
        Rows used.
    """

    coefficients: Float64[Array, " coefficient"]
    influence: Float64[Array, "patient coefficient"]
    variance: Float64[Array, "coefficient coefficient"]
    predicted: Float64[Array, " patient"]
    slopes: Float64[Array, "patient coefficient"]
    n: int


class _NotConverged(Exception):
    """There is no finite estimate."""


def fit_comparators(
    X: pd.DataFrame | Array,
    tested: Sequence[object] | Array | pd.Series,
    outcome: Sequence[object] | Array | pd.Series,
    *,
    continuous: bool = False,
) -> Comparators:
    """Fit the simpler methods and put them side by side.

    Parameters
    ----------
    X, tested, outcome
        As in `SelectiveLabelsModel.fit`: features without intercept; 0 or 1; missing
        exactly where not tested.
    continuous
        The outcome is a number, such as a measurement, and not 0 or 1.

    Raises
    ------
    BadInput
        As `check_table`.

    Notes
    -----
    Errors of tested_only and untested_as_negative are those of the model, of ipw the
    sandwich with the weights taken as known, which is on the safe side (Lunceford &
    Davidian 2004, doi:10.1002/sim.1903). Those of heckman_two_step are of both steps at
    once (Newey 1984, doi:10.1016/0165-1765(84)90083-1), also under unequal variances.
    """
    table = check_table(
        X, tested, outcome, continuous=continuous, rescale=False, minimum_events=0
    )
    who, names = table.tested, table.names[1:]
    design = np.column_stack([np.ones(len(who)), table.features])
    # Only the intercept and the units of the columns are undone at the end.
    centre, spread = design.mean(axis=0), design.std(axis=0)
    centre[0], spread[0] = 0.0, 1.0
    scaled = (design - centre) / spread
    seen = np.where(who, table.outcome, 0.0)
    notes: list[str] = []
    methods: dict[str, Callable[[], _Fit]] = {
        "tested_only": lambda: _regression(scaled, seen, who * 1.0, continuous),
        "untested_as_negative": lambda: _regression(
            scaled, seen, np.ones(len(seen)), continuous
        ),
        "ipw": lambda: _weighted(scaled, who, seen, continuous, notes),
        "heckman_two_step": lambda: _heckman(scaled, who, seen, notes),
    }
    del methods["untested_as_negative" if continuous else "heckman_two_step"]
    quantities = ["intercept", *names]
    tables, risk = [], {}
    for method, fit_method in methods.items():
        try:
            fit = fit_method()
        except _NotConverged:
            notes.append(f"{method}: the outcomes are separated; no finite estimate.")
            tables.append(_empty(method, quantities))
            risk[method] = np.full(len(seen), np.nan)
            continue
        risk[method] = fit.predicted
        rows = [*_coefficient_rows(fit, quantities, centre, spread)]
        rows += _mean_rows(fit, who, seen, continuous)
        tables.append(pd.DataFrame(rows).assign(method=method, n=fit.n, code="OK"))
    columns = ["method", "quantity", "estimate", "standard_error"]
    columns += ["conf_int_1", "conf_int_2", "n", "code"]
    return Comparators(
        table=pd.concat(tables, ignore_index=True).reindex(columns=columns),
        risk=pd.DataFrame(risk),
        n_tested=int(who.sum()),
        n_untested=int((~who).sum()),
        notes=tuple(notes),
    )


# --- the methods --------------------------------------------------------------------------


def _regression(
    design: Float64[Array, "patient column"],
    outcome: Float64[Array, " patient"],
    weight: Float64[Array, " patient"],
    continuous: bool,
    *,
    robust: bool = False,
) -> _Fit:
    """Logistic regression or least squares, with case weights."""
    n_used = int((weight > 0).sum())
    if continuous:
        bread = np.linalg.inv(design.T @ (design * weight[:, None]))
        coefficients = bread @ (design.T @ (weight * outcome))
        predicted = design @ coefficients
        slopes = design
        scale = float((outcome - predicted)[weight > 0] @ (outcome - predicted)[weight > 0])
        scale /= max(n_used - design.shape[1], 1)
    else:
        coefficients = _logistic(design, outcome, weight)
        predicted = _expit(design @ coefficients)
        slopes = design * (predicted * (1 - predicted))[:, None]
        bread = np.linalg.inv(design.T @ (slopes * weight[:, None]))
        scale = 1.0
    scores = design * (weight * (outcome - predicted))[:, None]
    influence = scores @ bread
    variance = influence.T @ influence if robust else bread * scale
    return _Fit(coefficients, influence, variance, predicted, slopes, n_used)


def _weighted(
    design: Float64[Array, "patient column"],
    tested: Bool[Array, " patient"],
    outcome: Float64[Array, " patient"],
    continuous: bool,
    notes: list[str],
) -> _Fit:
    testing = _expit(design @ _logistic(design, tested * 1.0, np.ones(len(tested))))
    n_clipped = int((testing[tested] < SMALLEST_PROBABILITY).sum())
    weight = tested / np.maximum(testing, SMALLEST_PROBABILITY)
    n_effective = weight.sum() ** 2 / (weight**2).sum()
    notes.append(
        f"ipw: {int(tested.sum()):,} tested patients weigh as much as {n_effective:,.0f} "
        f"equally weighted ones; {n_clipped:,} weights were cut at 100."
    )
    return _regression(design, outcome, weight, continuous, robust=True)


def _heckman(
    design: Float64[Array, "patient column"],
    tested: Bool[Array, " patient"],
    outcome: Float64[Array, " patient"],
    notes: list[str],
) -> _Fit:
    """Heckman's two steps (1979, doi:10.2307/1912352), solved as one set of equations.

    Parameters in order: the outcome's coefficients, rho, the coefficients of testing. Among
    the tested the mean is X beta + rho m with Mills' ratio m = phi / Phi of the probit's
    linear predictor; among the others rho times minus that of its negative.
    """
    k = design.shape[1]
    sign = np.where(tested, 1.0, -1.0)
    testing = _probit(design, sign)
    ratio, ratio_slope = _mills(sign * (design @ testing))
    regressors = np.column_stack([design, sign * ratio])
    used = regressors[tested]
    gram = used.T @ used
    if np.linalg.cond(gram) > 1e13:
        raise _NotConverged
    estimate = np.linalg.solve(gram, used.T @ outcome[tested])
    rho = float(estimate[k])
    predicted = regressors @ estimate
    left = np.where(tested, outcome - predicted, 0.0)
    # The second step's equations move with the first's parameters: through Mills' ratio in
    # the mean, and through the ratio as a regressor.
    of_testing = (design * (sign * ratio)[:, None]) @ np.linalg.inv(
        design.T @ (design * -ratio_slope[:, None])
    )
    moved = np.where(tested, ratio_slope, 0.0)
    cross = -rho * regressors.T @ (design * moved[:, None])
    cross[k] += (left * moved) @ design
    of_outcome = (regressors * left[:, None] + of_testing @ cross.T) @ np.linalg.inv(gram)
    influence = np.column_stack([of_outcome, of_testing])
    mills = ratio[tested]
    by_features = np.linalg.lstsq(design[tested], mills, rcond=None)[0]
    unexplained = (mills - design[tested] @ by_features).var() / mills.var()
    notes.append(
        f"heckman_two_step: all but {unexplained:.2%} of Mills' ratio is a straight line "
        "in the features; the correction lives on that rest, and so on normal errors."
    )
    return _Fit(
        coefficients=np.concatenate([estimate, testing]),
        influence=influence,
        variance=influence.T @ influence,
        predicted=predicted,
        slopes=np.column_stack([regressors, design * (rho * ratio_slope)[:, None]]),
        n=len(tested),
    )


def _expit(u: Float64[Array, " patient"]) -> Float64[Array, " patient"]:
    return special.expit(u)


def _mills(
    u: Float64[Array, " patient"],
) -> tuple[Float64[Array, " patient"], Float64[Array, " patient"]]:
    """phi(u) / Phi(u) and its derivative, also where both underflow."""
    ratio = np.exp(-0.5 * u**2 - 0.5 * np.log(2 * np.pi) - special.log_ndtr(u))
    return ratio, -ratio * (u + ratio)


def _logistic(
    design: Float64[Array, "patient column"],
    outcome: Float64[Array, " patient"],
    weight: Float64[Array, " patient"],
) -> Float64[Array, " column"]:
    def derivatives(eta: Array) -> tuple[float, Array, Array]:
        value = weight @ (outcome * eta - np.logaddexp(0, eta))
        mean = special.expit(eta)
        return float(value), weight * (outcome - mean), weight * mean * (1 - mean)

    return _newton(design, derivatives, float(weight.sum()))


def _probit(
    design: Float64[Array, "patient column"], sign: Float64[Array, " patient"]
) -> Float64[Array, " column"]:
    def derivatives(eta: Array) -> tuple[float, Array, Array]:
        ratio, slope = _mills(sign * eta)
        return float(special.log_ndtr(sign * eta).sum()), sign * ratio, -slope

    return _newton(design, derivatives, float(len(sign)))


def _newton(
    design: Float64[Array, "patient column"],
    derivatives: Callable[[Array], tuple[float, Array, Array]],
    total: float,
) -> Float64[Array, " column"]:
    """Maximise a concave function of the linear predictor by steps that never lower it.

    `derivatives` gives the value, and for each row the first and minus the second
    derivative.
    """
    coefficients = np.zeros(design.shape[1])
    value, first, second = derivatives(design @ coefficients)
    for _ in range(MAX_STEPS):
        information = design.T @ (design * second[:, None])
        # Under separation the information of a direction vanishes with every step.
        if np.linalg.eigvalsh(information)[0] < SEPARATED * total:
            break
        gradient = design.T @ first
        change = np.linalg.solve(information, gradient)
        if gradient @ change < CONVERGED * total:
            return coefficients + change
        there = derivatives(design @ (coefficients + change))
        while there[0] < value - 1e-12 * abs(value):
            change /= 2
            there = derivatives(design @ (coefficients + change))
        coefficients = coefficients + change
        value, first, second = there
    raise _NotConverged


# --- the table ----------------------------------------------------------------------------


def _coefficient_rows(
    fit: _Fit,
    quantities: Sequence[str],
    centre: Float64[Array, " column"],
    spread: Float64[Array, " column"],
) -> list[dict[str, float | str]]:
    """Intercept and coefficients a unit of the columns as they came, and rho."""
    k = len(quantities)
    undo = np.diag(1 / spread)
    undo[0] = -centre / spread
    undo[0, 0] = 1.0
    estimates = undo @ fit.coefficients[:k]
    errors = np.sqrt(np.diag(undo @ fit.variance[:k, :k] @ undo.T))
    rows = [_row(*one) for one in zip(quantities, estimates, errors, strict=True)]
    if len(fit.coefficients) > k:
        rows.append(_row("rho", fit.coefficients[k], np.sqrt(fit.variance[k, k])))
    return rows


def _mean_rows(
    fit: _Fit,
    tested: Bool[Array, " patient"],
    outcome: Float64[Array, " patient"],
    continuous: bool,
) -> list[dict[str, float | str]]:
    """Means of the predictions, by the delta method, and what they exceed the tested by."""
    everyone = np.ones(len(tested), dtype=bool)
    rows = []
    for quantity, who in zip(MEANS, (everyone, tested, ~tested), strict=True):
        estimate = float(fit.predicted[who].mean())
        slope = fit.slopes[who].mean(axis=0)
        error = float(np.sqrt(slope @ fit.variance @ slope))
        rows.append(_row(quantity, estimate, error, within_0_and_1=not continuous))
    # The outcomes of the tested went into the fit: their errors are taken together.
    left = np.where(tested, outcome - fit.predicted, 0.0) / tested.sum()
    of_mean = fit.influence @ fit.slopes[tested].mean(axis=0)
    error = float(np.sqrt(((of_mean - left) ** 2).sum()))
    rows.append(_row("excess_among_tested", -float(left.sum()), error))
    return rows


def _row(
    quantity: str, estimate: float, error: float, *, within_0_and_1: bool = False
) -> dict[str, float | str]:
    low, high = estimate - Z_95 * error, estimate + Z_95 * error
    if within_0_and_1:
        # Symmetric for the log odds, so that the interval stays within 0 and 1.
        centre, half = special.logit(estimate), Z_95 * error / (estimate * (1 - estimate))
        low, high = special.expit(centre - half), special.expit(centre + half)
    return {
        "quantity": quantity,
        "estimate": float(estimate),
        "standard_error": float(error),
        "conf_int_1": float(low),
        "conf_int_2": float(high),
    }


def _empty(method: str, quantities: Sequence[str]) -> pd.DataFrame:
    """The rows of a method that found no estimate."""
    table = pd.DataFrame({"quantity": [*quantities, *MEANS, "excess_among_tested"]})
    return table.assign(method=method, n=0, code="N_NOT_CONVERGED")
