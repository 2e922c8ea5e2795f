"""Risk of the tested and of the untested, with its gate and its flags.

`SelectiveLabelsModel` is the one thing here: it checks the table (`risk_table`), fits
(`laplace`, or `nuts` as the reference), refuses a fit that is not reliable, checks whether
the answer holds (`risk_checks`), and answers for patients and for other prevalences. The
model family and its source are in `selective_labels` (outcome 0 or 1) and `heckman`.

Two sentences belong to every result, `LIMITS`.
"""

import time
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Float64
from sklearn.base import BaseEstimator

from phenokit.errors import AnalysisRefused
from phenokit.evidence.convergence import ess_bulk, ess_tail, r_hat
from phenokit.evidence.heckman import HeckmanModel
from phenokit.evidence.laplace import (
    NestedLaplace,
    WeightedDraws,
    draw_weighted,
    fit_nested_laplace,
)
from phenokit.evidence.psis import resample, smooth_weights, weighted_quantile
from phenokit.evidence.risk_checks import (
    MISFIT_DRAWS,
    Conclusion,
    Conflict,
    Flag,
    Freed,
    Misfit,
    OtherLaw,
    affordable_draws,
    check_conflict,
    check_expertise,
    check_law,
    check_misfit,
    check_selection,
    check_weakness,
    expertise_flags,
    grid_points,
    moments,
    untested_cases,
    with_weakness,
)
from phenokit.evidence.risk_table import RiskTable, check_prevalence, check_table
from phenokit.evidence.selective_labels import (
    COLUMN_EVENTS,
    NEGATIVE,
    POSITIVE,
    UNTESTED,
    BernoulliModel,
    Evaluated,
    aggregate,
    logistic,
    unobserved_mean,
)

Array = np.ndarray
Population = Literal["all", "tested", "untested"]
Model = BernoulliModel | HeckmanModel

LIMITS = (
    "Untested outcomes were never observed; results rest on the stated prevalence and on "
    "the listed features being the only non-risk reasons for testing.",
    "Not for individual diagnosis.",
)

MAX_R_HAT = 1.01
MIN_EFFECTIVE = 400.0
MAX_DIVERGENT = 0.001
"""Share of divergent draws that may remain, as a note, after the fit with smaller steps."""
CAREFUL_ACCEPTANCE = 0.99
RARE = 0.1
"""Share of the tested with the outcome below which smaller steps are taken at once."""
MAX_NODE_CHANGE = 1e-4
"""Of the log-likelihood at the mode when the quadrature nodes are doubled."""
PREDICTION_DRAWS = 400
ELEMENTS_AT_ONCE = 1 << 16
DISAGREE_MEAN, DISAGREE_SD = 0.15, 0.12


@dataclass(frozen=True)
class RiskPosterior:
    """Posterior draws by name, and their summary.

    Attributes
    ----------
    draws
        ``(chain, draw)`` arrays: ``beta_Y[feature]``, ``beta_Delta[feature]`` (the free),
        the shape (``sigma``, ``alpha``), ``prevalence``, ``risk_tested``,
        ``risk_untested``.
        Coefficients are log-odds per unit of the features as given.
    weights
        ``(chain, draw)``, sum 1; equal for NUTS.
    summary
        A row a name: mean, sd, q2_5, q50, q97_5, and for NUTS r_hat, ess_bulk, ess_tail.
    """

    draws: Mapping[str, Float64[Array, "chain draw"]]
    weights: Float64[Array, "chain draw"]
    summary: pd.DataFrame

    def interval(self, name: str) -> tuple[float, float]:
        """95 % interval of one quantity."""
        row = self.summary.loc[name]
        return float(row["q2_5"]), float(row["q97_5"])

    def mean(self, name: str) -> float:
        """Posterior mean of one quantity."""
        return float(self.summary.loc[name, "mean"])


@dataclass(frozen=True)
class RiskDiagnostics:
    """How the fit was made, and how far it can be trusted.

    Attributes
    ----------
    engine
        ``"nuts"`` or ``"laplace"``.
    source
        ``"fit"``; after `reweight`, ``"reweighted"`` or ``"refitted"``.
    n_rows, n_cells, n_draws
        Of the table, aggregated, and of the posterior.
    k_hat, importance_ess
        Of the nested Laplace fit's draws (or of the re-weighting).
    needs_refit
        Whether a re-weighting is past its rule; its figures are then provisional.
    r_hat, ess_bulk, ess_tail, divergences, mean_leapfrog, target_acceptance
        Of NUTS: the worst over all quantities; NaN or 0 for Laplace.
    log_likelihood_at_mode
        Of the observed data, at the highest mode of the nested Laplace fit.
    node_change
        Of that figure when the quadrature nodes are doubled.
    prevalence_bounds
        Exact bounds of the prevalence of this cohort; NaN for a continuous outcome.
    conflict, misfit, other_law, freed, alpha_interval
        Of `risk_checks`; None or empty where a check does not apply.
    agreement
        Laplace beside NUTS: ``mean_difference`` in posterior standard deviations and
        ``sd_ratio`` by quantity; empty for the Laplace engine.
    notes
        Sentences for the report.
    seconds
        Wall time by stage.
    """

    engine: str
    source: str
    n_rows: int
    n_cells: int
    n_draws: int
    k_hat: float
    importance_ess: float
    log_likelihood_at_mode: float
    node_change: float
    prevalence_bounds: tuple[float, float]
    needs_refit: bool = False
    r_hat: float = float("nan")
    ess_bulk: float = float("nan")
    ess_tail: float = float("nan")
    divergences: int = 0
    mean_leapfrog: float = float("nan")
    target_acceptance: float = float("nan")
    conflict: Conflict | None = None
    misfit: Misfit | None = None
    other_law: OtherLaw | None = None
    freed: tuple[Freed, ...] = ()
    alpha_interval: tuple[float, float] | None = None
    agreement: pd.DataFrame = field(default_factory=pd.DataFrame)
    notes: tuple[str, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)

    @property
    def disagreement(self) -> pd.DataFrame:
        """Quantities on which the engines differ by > 0.15 sd, or their sd by > 12 %."""
        if self.agreement.empty:
            return self.agreement
        apart = self.agreement["mean_difference"].abs() > DISAGREE_MEAN
        wider = (self.agreement["sd_ratio"] - 1).abs() > DISAGREE_SD
        return self.agreement.loc[apart | wider, :]

    def to_json(self) -> dict[str, Any]:
        """The same as JSON values: what is not a number becomes None."""
        plain = asdict(replace(self, agreement=pd.DataFrame()))
        plain["agreement"] = self.agreement.to_dict("index")
        return without_nan(plain)

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> "RiskDiagnostics":
        """What `to_json` gave."""
        given = _with_nan(cls, plain)
        kinds = {"conflict": Conflict, "misfit": Misfit, "other_law": OtherLaw}
        for name, kind in kinds.items():
            if given[name] is not None:
                given[name] = kind(**_with_nan(kind, given[name]))
        given["freed"] = tuple(Freed(**_with_nan(Freed, one)) for one in given["freed"])
        given["agreement"] = pd.DataFrame.from_dict(given["agreement"], orient="index")
        given["notes"] = tuple(given["notes"])
        return cls(**given)


def _with_nan(kind: Any, plain: Mapping[str, Any]) -> dict[str, Any]:  # noqa: ANN401
    """Fields of a dataclass from JSON: None becomes NaN again where a number belongs."""
    given = dict(plain)
    for one in fields(kind):
        value = given.get(one.name)
        if one.type is float and value is None:
            given[one.name] = float("nan")
        elif isinstance(value, list) and one.name.endswith(("interval", "bounds")):
            low, high = (float("nan") if end is None else end for end in value)
            given[one.name] = (low, high)
    return given


def without_nan(value: Any) -> Any:  # noqa: ANN401 - whatever a result holds
    """A result as JSON values: NaN, which JSON lacks, becomes None."""
    if isinstance(value, Mapping):
        return {name: without_nan(one) for name, one in value.items()}
    if isinstance(value, tuple | list):
        return [without_nan(one) for one in value]
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else None
    if isinstance(value, np.generic):
        return value.item()
    return value


@dataclass(frozen=True)
class _Draws:
    """Draws of either engine, chains one after the other."""

    coefficients: Float64[Array, "draw coefficient"]
    shape: Float64[Array, " draw"]
    evaluated: Evaluated
    weights: Float64[Array, " draw"]
    n_chains: int = 1


@dataclass(frozen=True)
class Fitted:
    """A model, its draws, and the log-likelihood of the table at the highest mode."""

    model: Model
    drawn: _Draws
    log_likelihood: float


class SelectiveLabelsModel(BaseEstimator):
    """Risk model for outcomes that are known only for the tested.

    Parameters
    ----------
    kind
        ``"uniform"`` (default), ``"normal"`` (sigma estimated, `alpha` given),
        ``"normal_alpha"`` (alpha estimated, `sigma` given), ``"heckman"`` (continuous
        outcome).
    engine
        ``"laplace"``: nested Laplace fit with importance weights, a second. ``"nuts"``: the
        reference; the Laplace fit is made too and compared.
    alpha, sigma
        What is given for the normal kinds.
    n_chains, n_warmup, n_draws
        Of NUTS.
    target_acceptance
        None: 0.9, and 0.95 where fewer than a tenth of the tested have the outcome.
    n_laplace
        Draws of the Laplace fit.
    rescale
        Standardise features with a standard deviation outside 0.01 to 100.
    checks
        Whether the conflict, selection, misfit and expertise checks are made.
    minimum_events
        Tested positives needed for each coefficient of risk.
    shape_scale
        Scale of the half-normal prior of sigma (alpha, rho).

    Attributes
    ----------
    posterior_
        `RiskPosterior`.
    diagnostics_
        `RiskDiagnostics`.
    flags_
        `Flag` s, each a code and a sentence; empty if there is nothing to say.
    table_
        The checked `RiskTable`.
    fitted_, free_
        `Fitted`: the density and its draws, with the stated prevalence and without.

    Examples
    --------
    >>> rng = np.random.default_rng(3)
    >>> x = rng.integers(0, 2, (2_000, 1)).astype(float)
    >>> risk = x[:, 0] - 3 + rng.uniform(0, 2, 2_000)
    >>> case = rng.random(2_000) < 1 / (1 + np.exp(-risk))
    >>> tested = rng.random(2_000) < 1 / (1 + np.exp(-risk - 1))
    >>> outcome = np.where(tested, case, np.nan)
    >>> model = SelectiveLabelsModel(checks=False)
    >>> model = model.fit(x, tested, outcome, prevalence=0.21, prevalence_sd=0.01, seed=1)
    >>> model.predict_proba(np.array([[0.0], [1.0]]), population="untested").round(2)
    array([[0.88, 0.12],
           [0.75, 0.25]])
    """

    def __init__(
        self,
        kind: Literal["uniform", "normal", "normal_alpha", "heckman"] = "uniform",
        engine: Literal["laplace", "nuts"] = "laplace",
        *,
        alpha: float = 1.0,
        sigma: float = 1.0,
        n_chains: int = 4,
        n_warmup: int = 1_000,
        n_draws: int = 1_000,
        target_acceptance: float | None = None,
        n_laplace: int = 4_000,
        rescale: bool = True,
        checks: bool = True,
        minimum_events: int = 10,
        shape_scale: float = 3.0,
    ) -> None:
        self.kind: Literal["uniform", "normal", "normal_alpha", "heckman"] = kind
        self.engine = engine
        self.alpha = alpha
        self.sigma = sigma
        self.n_chains = n_chains
        self.n_warmup = n_warmup
        self.n_draws = n_draws
        self.target_acceptance = target_acceptance
        self.n_laplace = n_laplace
        self.rescale = rescale
        self.checks = checks
        self.minimum_events = minimum_events
        self.shape_scale = shape_scale

    # --- fitting ----------------------------------------------------------------------

    def fit(
        self,
        X: pd.DataFrame | Array,
        tested: Sequence[object] | Array | pd.Series,
        outcome: Sequence[object] | Array | pd.Series,
        *,
        prevalence: float | None = None,
        prevalence_sd: float | None = None,
        testing_features: Sequence[str] | None = None,
        seed: int = 0,
    ) -> "SelectiveLabelsModel":
        """Fit, pass the gate, and check.

        Parameters
        ----------
        X
            A row a patient, numbers, no intercept.
        tested
            0 or 1.
        outcome
            Of the tested; NaN for the untested.
        prevalence, prevalence_sd
            Stated for the population of the table, and its standard deviation (the width of
            a 95 % interval over 3.92). None: no such constraint. For ``heckman`` the mean.
        testing_features
            Features that may affect testing beyond risk; None: all. Every other feature is
            assumed to affect testing through risk alone.
        seed
            Of all draws.

        Raises
        ------
        BadInput
            The table or the prevalence cannot be used: `check_table`, `check_prevalence`.
        AnalysisRefused
            ``N_FEW_EVENTS``, ``E_FIT`` or ``E_SELECTION``: no numbers are kept.
        """
        if self.kind not in ("uniform", "normal", "normal_alpha", "heckman"):
            raise ValueError(f"kind {self.kind!r} is not known")
        if self.engine not in ("laplace", "nuts"):
            raise ValueError(f"engine {self.engine!r} is not known")
        clock = _Clock()
        table = check_table(
            X, tested, outcome,
            testing_features=testing_features,
            continuous=self.kind == "heckman",
            rescale=self.rescale,
            minimum_events=self.minimum_events,
        )  # fmt: skip
        cells = None if self.kind == "heckman" else table.cells
        weight = check_prevalence(prevalence, prevalence_sd, cells)
        model = self._model(table, prevalence or 0.0, weight)
        clock.stop("aggregate")

        *streams, self._refit_seed = np.random.SeedSequence(seed).spawn(6)
        self._rngs = [np.random.default_rng(stream) for stream in streams]
        fit, laplace = self._laplace(model, self._rngs[0])
        if model.weight > 0:
            free_model = model.without_prevalence()
            free_fit, free = self._laplace(free_model, self._rngs[1])
        else:
            free_model, free_fit, free = model, fit, laplace
        clock.stop("laplace")

        likelihood = _log_likelihood(model, fit)
        diagnostics = RiskDiagnostics(
            self.engine, "fit", len(table.tested), _n_cells(model), len(laplace.shape),
            laplace.smoothed.k_hat, laplace.smoothed.effective_size,
            likelihood, _node_change(model, *fit.joint_mode),
            cells.prevalence_bounds if cells is not None else (np.nan, np.nan),
        )  # fmt: skip
        if self.engine == "nuts":
            drawn, diagnostics = self._nuts(model, fit, table, diagnostics, seed)
            clock.stop("nuts")
        else:
            drawn = _of_laplace(laplace)
            _laplace_gate(laplace)
        if diagnostics.node_change > MAX_NODE_CHANGE:
            raise _not_reliable(
                "the quadrature over unseen risk moves the log-likelihood by "
                f"{diagnostics.node_change:.1e}"
            )
        posterior = _summarise(model, table, drawn, chains=self.engine == "nuts")
        if self.engine == "nuts":
            beside = _summarise(model, table, _of_laplace(laplace), chains=False)
            diagnostics = replace(diagnostics, agreement=_agreement(posterior, beside))

        self.table_, self.posterior_ = table, posterior
        self.fitted_ = Fitted(model, drawn, likelihood)
        self.free_ = (
            self.fitted_ if model.weight == 0 and self.engine == "laplace"
            else Fitted(
                free_model, _of_laplace(free), _log_likelihood(free_model, free_fit)
            )
        )  # fmt: skip
        self.flags_, self.diagnostics_ = self._check(diagnostics)
        clock.stop("checks")
        self.diagnostics_ = replace(self.diagnostics_, seconds=clock.seconds)
        return self._named(table)

    def _named(self, table: RiskTable) -> "SelectiveLabelsModel":
        self.n_features_in_ = len(table.names) - 1
        self.feature_names_in_ = np.array(table.names[1:], dtype=object)
        self.classes_ = np.array([0, 1])
        return self

    def _model(self, table: RiskTable, prevalence: float, weight: float) -> Model:
        if self.kind == "heckman":
            outcome = np.where(table.tested, table.outcome, 0.0)
            design = np.column_stack([np.ones(len(outcome)), table.features])
            return HeckmanModel(
                design, table.tested, outcome, table.free, prevalence, weight,
                self.shape_scale,
            )  # fmt: skip
        given = {"uniform": 1.0, "normal": self.alpha, "normal_alpha": self.sigma}
        return BernoulliModel(
            table.cells, self.kind, table.free, given[self.kind], prevalence, weight,
            self.shape_scale,
        )  # fmt: skip

    def _laplace(
        self, model: Model, rng: np.random.Generator
    ) -> tuple[NestedLaplace, WeightedDraws]:
        try:
            fit = fit_nested_laplace(model, n_points=grid_points(model))
        except (FloatingPointError, np.linalg.LinAlgError) as error:
            raise _not_reliable(f"no mode was found ({error})") from error
        return fit, draw_weighted(model, fit, affordable_draws(model, self.n_laplace), rng)

    def _nuts(
        self,
        model: Model,
        fit: NestedLaplace,
        table: RiskTable,
        diagnostics: RiskDiagnostics,
        seed: int,
    ) -> tuple[_Draws, RiskDiagnostics]:
        from phenokit.evidence.nuts import sample

        rare = self.kind != "heckman" and np.nanmean(table.outcome) < RARE
        acceptance = self.target_acceptance or (0.95 if rare else 0.9)
        notes: list[str] = []
        while True:
            chains = sample(
                model, fit,
                n_chains=self.n_chains, n_warmup=self.n_warmup, n_draws=self.n_draws,
                target_acceptance=acceptance, seed=seed,
            )  # fmt: skip
            n_divergent = int(chains.divergent.sum())
            if n_divergent == 0 or acceptance >= CAREFUL_ACCEPTANCE:
                break
            notes.append(
                f"{n_divergent} of {chains.divergent.size:,} draws diverged at target "
                f"acceptance {acceptance:g}; fitted again at {CAREFUL_ACCEPTANCE}."
            )
            acceptance = CAREFUL_ACCEPTANCE
        flat = chains.coefficients.reshape(-1, model.dimension)
        shape = chains.shape.reshape(-1)
        weights = np.full(len(shape), 1 / len(shape))
        evaluated = model.evaluate(flat, shape)
        drawn = _Draws(flat, shape, evaluated, weights, len(chains.shape))
        summary = _summarise(model, table, drawn, chains=True).summary
        if n_divergent:
            notes.append(f"{n_divergent} draws diverged and are kept.")
        found = replace(
            diagnostics,
            n_draws=len(shape),
            r_hat=float(summary["r_hat"].max()),
            ess_bulk=float(summary["ess_bulk"].min()),
            ess_tail=float(summary["ess_tail"].min()),
            divergences=n_divergent,
            mean_leapfrog=float(chains.n_steps.mean()),
            target_acceptance=acceptance,
            notes=tuple(notes),
        )
        _nuts_gate(found)
        return drawn, found

    # --- checks -----------------------------------------------------------------------

    def _check(
        self, diagnostics: RiskDiagnostics
    ) -> tuple[tuple[Flag, ...], RiskDiagnostics]:
        """Flags, and the diagnostics with the figures that they rest on."""
        table, model, drawn = self.table_, self.fitted_.model, self.fitted_.drawn
        flags = check_weakness(model, drawn.coefficients, drawn.shape, drawn.weights)
        if table.rescaled:
            flags.append(
                Flag(
                    "W_RESCALED",
                    f"Standardised for the fit: {', '.join(table.rescaled)}; coefficients "
                    "are per unit as given.",
                )
            )
        if not self.checks:
            return tuple(flags), diagnostics
        median = float(weighted_quantile(drawn.shape, drawn.weights, np.array([0.5]))[0])
        untested, sd, _ = moments(drawn.evaluated.risk_untested, drawn.weights)
        conflict = misfit = law = interval = None
        notes = diagnostics.notes
        if model.weight > 0:
            conflict = self._conflict(self.fitted_, median)
            flags += conflict.flags()
        if isinstance(model, BernoulliModel):
            if model.shape_name == "sigma" and len(model.free) < model.n_features:
                interval = check_selection(model, median, self._rngs[2])
                flags = _selection_flags(flags, interval)
            few = resample(drawn.weights, MISFIT_DRAWS, self._rngs[3])
            misfit = check_misfit(
                model, table.names, drawn.coefficients[few], drawn.shape[few], self._rngs[3]
            )
            flags += misfit.flags()
            found = Conclusion(self.fitted_.log_likelihood, untested, sd)
            law = check_law(model, found, self._rngs[3])
            if law is not None:
                flags += law.flags()
                flags = with_weakness(flags, law.weakness) if law.weakness else flags
            if model.weight > 0:
                notes = (*notes, *untested_cases(model).notes)
        freed = check_expertise(model, table.names, untested, self._rngs[4])
        flags += expertise_flags(freed)
        return tuple(flags), replace(
            diagnostics, conflict=conflict, misfit=misfit, other_law=law, freed=freed,
            alpha_interval=interval, notes=notes,
        )  # fmt: skip

    def _conflict(self, fitted: Fitted, shape_median: float) -> Conflict:
        free = self.free_
        return check_conflict(
            fitted.model,
            free.drawn.evaluated.prevalence,
            free.drawn.weights,
            free.log_likelihood - fitted.log_likelihood,
            shape_median,
        )

    # --- answers ----------------------------------------------------------------------

    def predict_proba(
        self, X: pd.DataFrame | Array, population: Population = "all"
    ) -> Float64[Array, "row 2"]:
        """P(outcome 0) and P(outcome 1) of patients, averaged over the posterior.

        Parameters
        ----------
        X
            Features as in `fit`.
        population
            ``"all"``: P(Y=1 | X). ``"untested"`` and ``"tested"``: of a patient with these
            features who was, or was not, chosen for the test, P(Y=1 | T, X).
        """
        if self.kind == "heckman":
            raise ValueError("a continuous outcome has no probability; call predict")
        mean = self.predict(X, population)
        return np.column_stack([1 - mean, mean])

    def predict(
        self, X: pd.DataFrame | Array, population: Population = "all"
    ) -> Float64[Array, " row"]:
        """Posterior mean risk of patients, or mean outcome where it is continuous."""
        return self._over_draws(X, population, lambda risk: risk.mean(axis=1))

    def risk_interval(
        self, X: pd.DataFrame | Array, population: Population = "all"
    ) -> Float64[Array, "row 2"]:
        """95 % interval of each patient's risk: that of the model, not of the outcome."""
        return self._over_draws(
            X, population, lambda risk: np.quantile(risk, [0.025, 0.975], axis=1).T
        )

    def risk_estimate(
        self, X: pd.DataFrame | Array, population: Population = "all"
    ) -> Float64[Array, "row 3"]:
        """`predict` and `risk_interval` at the cost of one: mean, lower and upper end."""

        def reduce(risk: Array) -> Array:
            low, high = np.quantile(risk, [0.025, 0.975], axis=1)
            return np.column_stack([risk.mean(axis=1), low, high])

        return self._over_draws(X, population, reduce)

    def risk_draws(
        self, X: pd.DataFrame | Array, population: Population = "all"
    ) -> Float64[Array, "row draw"]:
        """The 400 equally weighted draws of each row's risk behind the two above."""
        return self._over_draws(X, population, lambda risk: risk)

    def unobserved_mean(
        self,
        X: pd.DataFrame | Array,
        tested: Sequence[object] | Array | pd.Series,
        outcome: Sequence[object] | Array | pd.Series,
    ) -> Float64[Array, " row"]:
        """E[Z | X, T, Y]: the part of each patient's risk that the features do not show.

        At the posterior mean of the parameters.
        """
        model, drawn = self.fitted_.model, self.fitted_.drawn
        if not isinstance(model, BernoulliModel):
            raise ValueError("for outcomes of 0 and 1")
        known, is_tested = np.asarray(outcome, dtype=np.float64), np.asarray(tested) == 1
        cells = aggregate(self._values(X), is_tested, known)
        design = self.table_.design(cells.features[:, 1:])
        centre = drawn.weights @ drawn.coefficients
        a, d = model.linear_predictors(centre[None], design)
        steepness, spread = model.law(float(drawn.weights @ drawn.shape))
        found = np.column_stack(
            [
                unobserved_mean(
                    event, a[:, 0], d[:, 0],
                    steepness=steepness, spread=spread, kind=model.kind,
                )
                for event in COLUMN_EVENTS
            ]
        )  # fmt: skip
        seen = np.where(is_tested, np.where(known == 1, POSITIVE, NEGATIVE), UNTESTED)
        return found[cells.cell_of_row, seen]

    def _values(self, X: pd.DataFrame | Array) -> Float64[Array, "row feature"]:
        names = list(self.feature_names_in_)
        given = X[names] if isinstance(X, pd.DataFrame) else X
        values = np.asarray(given, dtype=np.float64)
        if values.ndim != 2 or values.shape[1] != len(names):
            raise ValueError(f"features must be the {len(names)} of the fit")
        if not np.isfinite(values).all():
            raise ValueError("a feature is missing or not finite")
        return values

    def _over_draws(self, X: Any, population: Population, reduce: Any) -> Array:  # noqa: ANN401
        """Apply `reduce` to ``(pattern, draw)`` risks, and spread the answer over rows."""
        values = self._values(X)
        nobody = np.zeros(len(values), dtype=bool)
        cells = aggregate(values, nobody, np.full(len(values), np.nan))
        patterns, of_row = cells.features[:, 1:], cells.cell_of_row
        model, drawn = self.fitted_.model, self.fitted_.drawn
        few = resample(drawn.weights, PREDICTION_DRAWS, np.random.default_rng(0))
        design = self.table_.design(patterns)
        at_once = max(1, ELEMENTS_AT_ONCE // PREDICTION_DRAWS)
        parts = [
            reduce(
                _risk(
                    model, drawn.coefficients[few], drawn.shape[few],
                    design[start : start + at_once], population,
                )
            )
            for start in range(0, len(design), at_once)
        ]  # fmt: skip
        return np.concatenate(parts)[of_row]

    def reweight(
        self, prevalence: float, prevalence_sd: float, *, refit: bool = True
    ) -> "SelectiveLabelsModel":
        """The same model under another stated prevalence.

        Nothing but the factor ``exp(-w (mean risk - prevalence)²)`` changes, so the draws
        are re-weighted, from the fit without a prevalence (its weights are bounded) or from
        the present one, whichever leaves more. Where k-hat or the effective size says that
        this is not enough, the nested Laplace fit is made anew; ``diagnostics_.source``
        says which it was. Only the conflict with the data is checked again, of the checks.

        Parameters
        ----------
        prevalence, prevalence_sd
            The other prevalence, within the exact bounds.
        refit
            False: never fit; ``diagnostics_.needs_refit`` then says that the answer is
            provisional.
        """
        start = time.perf_counter()
        model = self.fitted_.model
        cells = None if isinstance(model, HeckmanModel) else model.cells
        weight = check_prevalence(prevalence, prevalence_sd, cells)
        other: Model = replace(model, prevalence=prevalence, weight=weight)
        smoothed, best = max(
            (_reweighted(one, other) for one in (self.free_, self.fitted_)),
            key=lambda pair: pair[0].effective_size,
        )
        likelihood = float("nan")  # re-weighting knows no mode of the other prevalence
        needs_refit = not smoothed.reliable(MIN_EFFECTIVE)
        source = "reweighted"
        if needs_refit and refit:
            fit, laplace = self._laplace(other, np.random.default_rng(self._refit_seed))
            _laplace_gate(laplace)
            best, smoothed = _of_laplace(laplace), laplace.smoothed
            likelihood = _log_likelihood(other, fit)
            source, needs_refit = "refitted", False
        changed = copy(self)
        changed.fitted_ = Fitted(other, best, likelihood)
        changed.posterior_ = _summarise(other, self.table_, best, chains=False)
        flags = check_weakness(other, best.coefficients, best.shape, best.weights)
        median = float(weighted_quantile(best.shape, best.weights, np.array([0.5]))[0])
        conflict = self._conflict(changed.fitted_, median)
        flags += conflict.flags()
        again = {flag.code for flag in flags} | {"W_PREVALENCE_CONFLICT", "W_WEAK"}
        changed.flags_ = (*flags, *(f for f in self.flags_ if f.code not in again))
        changed.diagnostics_ = replace(
            self.diagnostics_,
            source=source, needs_refit=needs_refit, n_draws=len(best.shape),
            k_hat=smoothed.k_hat, importance_ess=smoothed.effective_size,
            log_likelihood_at_mode=likelihood,
            conflict=conflict, seconds={source: time.perf_counter() - start},
        )  # fmt: skip
        return changed

    # --- keeping ----------------------------------------------------------------------

    def draws_table(self, *, stated: bool = True) -> pd.DataFrame:
        """Every draw, a row each; `restore` takes it back.

        Parameters
        ----------
        stated
            Of the fit with the stated prevalence; False: of the one without.

        Returns
        -------
        DataFrame
            ``chain, draw, weight, log_likelihood``, the quantities of `posterior_`, and
            ``coordinate[k]``, the parameters as they were sampled.
        """
        fitted = self.fitted_ if stated else self.free_
        drawn = fitted.drawn
        n = len(drawn.shape)
        per_chain = n // drawn.n_chains
        columns = {
            "chain": np.repeat(np.arange(drawn.n_chains), per_chain),
            "draw": np.tile(np.arange(per_chain), drawn.n_chains),
            "weight": drawn.weights,
            "log_likelihood": drawn.evaluated.log_likelihood,
            **_by_name(fitted.model, self.table_, drawn),
        }
        raw = np.column_stack([drawn.coefficients, drawn.shape])
        columns |= {f"coordinate[{k}]": raw[:, k] for k in range(raw.shape[1])}
        return pd.DataFrame(columns)

    def restore(
        self,
        X: pd.DataFrame | Array,
        tested: Sequence[object] | Array | pd.Series,
        outcome: Sequence[object] | Array | pd.Series,
        *,
        draws: pd.DataFrame,
        free_draws: pd.DataFrame,
        free_log_likelihood: float,
        diagnostics: RiskDiagnostics,
        flags: Sequence[Flag],
        prevalence: float | None = None,
        prevalence_sd: float | None = None,
        testing_features: Sequence[str] | None = None,
        seed: int = 0,
    ) -> "SelectiveLabelsModel":
        """The fitted model again, from what it left behind; nothing is fitted.

        Parameters
        ----------
        X, tested, outcome, prevalence, prevalence_sd, testing_features, seed
            As they were given to `fit`.
        draws, free_draws
            `draws_table` with and without the stated prevalence.
        free_log_likelihood
            `free_log_likelihood` of the fit.
        diagnostics, flags
            `diagnostics_` and `flags_` of the fit.
        """
        table = check_table(
            X, tested, outcome,
            testing_features=testing_features,
            continuous=self.kind == "heckman",
            rescale=self.rescale,
            minimum_events=self.minimum_events,
        )  # fmt: skip
        cells = None if self.kind == "heckman" else table.cells
        weight = check_prevalence(prevalence, prevalence_sd, cells)
        model = self._model(table, prevalence or 0.0, weight)
        self.table_, self.flags_, self.diagnostics_ = table, tuple(flags), diagnostics
        drawn = _of_table(draws)
        self.fitted_ = Fitted(model, drawn, diagnostics.log_likelihood_at_mode)
        self.free_ = Fitted(
            model.without_prevalence(), _of_table(free_draws), free_log_likelihood
        )
        self._refit_seed = np.random.SeedSequence(seed).spawn(6)[-1]
        self.posterior_ = _summarise(model, table, drawn, chains=self.engine == "nuts")
        return self._named(table)

    @property
    def free_log_likelihood(self) -> float:
        """Log-likelihood at the highest mode of the fit without a stated prevalence."""
        return self.free_.log_likelihood


class _Clock:
    """Wall time of stages."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def stop(self, stage: str) -> None:
        """End a stage."""
        now = time.perf_counter()
        self.seconds[stage] = now - self._last
        self._last = now


# --- gates ----------------------------------------------------------------------------


def _not_reliable(why: str) -> AnalysisRefused:
    return AnalysisRefused(
        f"The fit is not reliable; no results shown: {why}. Try more draws, or check "
        "near-constant or collinear features.",
        code="E_FIT",
    )


def _laplace_gate(laplace: WeightedDraws) -> None:
    smoothed = laplace.smoothed
    if not smoothed.reliable(MIN_EFFECTIVE):
        raise _not_reliable(
            f"Pareto k-hat is {smoothed.k_hat:.2f} (at most {smoothed.k_limit:.2f}), and "
            f"{smoothed.effective_size:,.0f} draws effective (at least {MIN_EFFECTIVE:.0f})"
        )


def _nuts_gate(found: RiskDiagnostics) -> None:
    """R-hat <= 1.01, effective sizes >= 400, at most 0.1 % of draws divergent."""
    if not found.r_hat <= MAX_R_HAT:
        raise _not_reliable(f"R-hat is {found.r_hat:.3f} (at most {MAX_R_HAT})")
    if not min(found.ess_bulk, found.ess_tail) >= MIN_EFFECTIVE:
        size = min(found.ess_bulk, found.ess_tail)
        raise _not_reliable(f"{size:,.0f} effective draws (at least {MIN_EFFECTIVE:.0f})")
    if found.divergences > MAX_DIVERGENT * found.n_draws:
        raise _not_reliable(f"{found.divergences} of {found.n_draws:,} draws diverged")


def _selection_flags(flags: list[Flag], interval: tuple[float, float]) -> list[Flag]:
    """Refuse if testing falls with risk; W_WEAK if it cannot be told."""
    low, high = interval
    if high < 0:
        raise AnalysisRefused(
            "Testing does not rise with risk in these data; the model's core assumption "
            f"fails (alpha {low:.2f} to {high:.2f}).",
            code="E_SELECTION",
        )
    if low < 0:
        reason = f"alpha may be negative: 95% interval {low:.2f} to {high:.2f}"
        return with_weakness(flags, reason)
    return flags


def _node_change(model: Model, mode: Array, shape: float) -> float:
    """Change of the log-likelihood at the mode when the nodes are doubled."""
    if isinstance(model, HeckmanModel):
        return 0.0
    return model.node_change(mode, shape)


# --- draws ----------------------------------------------------------------------------


def _of_laplace(laplace: WeightedDraws) -> _Draws:
    return _Draws(
        laplace.coefficients, laplace.shape, laplace.evaluated, laplace.smoothed.weights
    )


def _of_table(draws: pd.DataFrame) -> _Draws:
    """Draws of `SelectiveLabelsModel.draws_table`."""
    raw = draws.loc[:, [name for name in draws if name.startswith("coordinate[")]]
    values = raw.to_numpy(np.float64)
    evaluated = Evaluated(*(draws[name].to_numpy() for name in Evaluated._fields))
    n_chains = int(draws["chain"].iloc[-1]) + 1
    weights = draws["weight"].to_numpy()
    # In the memory layout of a fit, whose sums then have the same last bit.
    coefficients, shape = map(np.ascontiguousarray, (values[:, :-1], values[:, -1]))
    return _Draws(coefficients, shape, evaluated, weights, n_chains)


def _log_likelihood(model: Model, fit: NestedLaplace) -> float:
    """Of the table, at the highest mode."""
    mode, shape = fit.joint_mode
    return float(model.evaluate(mode[None], np.array([shape])).log_likelihood[0])


def _reweighted(fitted: Fitted, other: Model) -> tuple[Any, _Draws]:
    """Draws of one prevalence, weighted for another."""
    model, drawn = fitted.model, fitted.drawn
    pihat = drawn.evaluated.prevalence
    with np.errstate(divide="ignore"):
        log_weights = np.log(drawn.weights)
    log_weights = log_weights - other.weight * (pihat - other.prevalence) ** 2
    log_weights = log_weights + model.weight * (pihat - model.prevalence) ** 2
    smoothed = smooth_weights(log_weights)
    return smoothed, replace(drawn, weights=smoothed.weights)


def _n_cells(model: Model) -> int:
    return len(model.features if isinstance(model, HeckmanModel) else model.cells.counts)


def _risk(
    model: Model, coefficients: Array, shape: Array, design: Array, population: Population
) -> Float64[Array, "row draw"]:
    """Risk of rows under draws, in one population."""
    if population not in ("all", "tested", "untested"):
        raise ValueError(f"population {population!r} is not all, tested or untested")
    if isinstance(model, HeckmanModel):
        return model.mean_outcome(coefficients, shape, design, population)
    p = model.probabilities(coefficients, shape, design)
    if population == "tested":
        return logistic(p.log_positive - p.log_negative)
    risk = p.case if population == "all" else p.missed / np.exp(p.log_untested)
    return np.minimum(risk, 1.0)  # rounding may exceed it


def _by_name(model: Model, table: RiskTable, drawn: _Draws) -> dict[str, Array]:
    """Draws of every reported quantity, ``(draw,)``, in units of the given features."""
    m = model.n_features
    free = list(model.free)
    beta_y = table.original_units(drawn.coefficients[:, :m])
    delta = np.zeros((len(drawn.shape), m))
    if isinstance(model, HeckmanModel):
        delta[:, free] = model.beta_delta(drawn.coefficients, drawn.shape)
    else:
        delta[:, free] = drawn.coefficients[:, m:]
    delta = table.original_units(delta)
    found = {f"beta_Y[{name}]": beta_y[:, j] for j, name in enumerate(table.names)}
    found |= {f"beta_Delta[{table.names[j]}]": delta[:, j] for j in free}
    if isinstance(model, HeckmanModel):
        sigma = np.exp(drawn.coefficients[:, -1])
        found |= {"sigma": sigma, "rho": drawn.shape * sigma}
    found[model.shape_name] = drawn.shape
    return found | {
        "prevalence": drawn.evaluated.prevalence,
        "risk_tested": drawn.evaluated.risk_tested,
        "risk_untested": drawn.evaluated.risk_untested,
    }


def _summarise(
    model: Model, table: RiskTable, drawn: _Draws, *, chains: bool
) -> RiskPosterior:
    rows, draws = {}, {}
    for name, values in _by_name(model, table, drawn).items():
        mean = float(drawn.weights @ values)
        low, middle, high = weighted_quantile(
            values, drawn.weights, np.array([0.025, 0.5, 0.975])
        )
        sd = float(np.sqrt(drawn.weights @ (values - mean) ** 2))
        rows[name] = {"mean": mean, "sd": sd, "q2_5": low, "q50": middle, "q97_5": high}
        draws[name] = values.reshape(drawn.n_chains, -1)
        if chains:
            rows[name] |= {
                "r_hat": r_hat(draws[name]),
                "ess_bulk": ess_bulk(draws[name]),
                "ess_tail": ess_tail(draws[name]),
            }
    summary = pd.DataFrame.from_dict(rows, orient="index")
    summary.index.name = "quantity"
    return RiskPosterior(draws, drawn.weights.reshape(drawn.n_chains, -1), summary)


def _agreement(posterior: RiskPosterior, laplace: RiskPosterior) -> pd.DataFrame:
    nuts, other = posterior.summary, laplace.summary
    return pd.DataFrame(
        {
            "mean_difference": (other["mean"] - nuts["mean"]) / nuts["sd"],
            "sd_ratio": other["sd"] / nuts["sd"],
        }
    )
