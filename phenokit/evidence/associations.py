"""Association of exposures with phecodes: one scan, exact where it matters.

Every exposure (the similarity of a prototype, a predicted probability, any number) is
tested against every phecode, given covariates:

1. `score_test` for all pairs at once. The result stands where its p is not small.
2. Where it is, the pair is fitted: maximum likelihood with the likelihood-ratio test, or
   Firth's penalised likelihood if there are few cases or the groups are separated.
3. The AUC of each pair, over the phecode's own cases and controls.
4. Corrections over the tests that were done: Bonferroni, Benjamini-Hochberg, and on demand
   the permutation distribution of the largest z.

A pair that is not tested keeps its row, its counts and the reason. All statistics are
float64; results do not depend on the size of a block.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Float64, Int64

from phenokit.cohort import CaseStatus, PhecodeStatus
from phenokit.errors import first_code
from phenokit.evidence.auc import delong_all_pairs
from phenokit.evidence.covariates import Covariates, permutation_strata
from phenokit.evidence.firth import fit_firth
from phenokit.evidence.logistic import (
    Design,
    NullFits,
    StatusBlock,
    dependent_columns,
    design_of,
    fit_exposures,
    fit_null,
)
from phenokit.evidence.multiplicity import (
    benjamini_hochberg,
    bonferroni,
    neg_log10_p_of_chi2,
    neg_log10_p_of_z,
)
from phenokit.evidence.score_test import (
    Scores,
    Standardised,
    clustered_score_test,
    permute_within,
    score_test,
    standardise,
)

Kind = Literal["prototype", "class", "prototype_class", "feature"]
Progress = Callable[[int, int], None]
Array = np.ndarray

FEWEST_CASES = 5
"""Under this many cases or controls nothing is tested, whatever minimum is chosen."""
SPARSE = 0.5
"""Patients expected in a cell of a 0/1 exposure below which its exact tail bounds p."""
PHECODES_AT_ONCE = 256
EXPOSURES_AT_ONCE = 64

COLUMNS = (
    "exposure", "exposure_kind", "phecode", "phecode_string", "phecode_category",
    "sex_restriction", "cases", "controls", "n_total", "n_excluded", "beta",
    "standard_error", "p_value", "neg_log_p_value", "odds_ratio", "conf_int_1",
    "conf_int_2", "auc", "auc_conf_int_1", "auc_conf_int_2", "method", "converged",
    "p_bonferroni", "q_bh", "p_permutation", "status", "code", "note", "covariates",
    "model_version", "run_id",
)  # fmt: skip
"""Columns of a table of associations, in their order."""


@dataclass(frozen=True)
class Exposures:
    """What is tested for association.

    Attributes
    ----------
    names
        Unique; ``"prototype 17"``, ``"class CRBBB"``, ``"prototype_class CRBBB max"``, or
        the name of a column.
    kinds
        Of each.
    values
        Shape ``(row, exposure)``, float32 or float64; NaN where missing.
    """

    names: tuple[str, ...]
    kinds: tuple[Kind, ...]
    values: Float[Array, "row exposure"]


@dataclass(frozen=True)
class AssociationSettings:
    """How a scan is done.

    Attributes
    ----------
    minimum_cases
        Cases, and controls, that a phecode needs to be tested; at least 5.
    refine
        Which pairs are fitted: ``"p"`` those with a score test p below `refine_below`,
        ``"all"``, or ``"none"``.
    refine_below
        See `refine`.
    firth
        Whether every fit has Firth's penalty; otherwise it has where there are fewer than
        `firth_below` cases or the groups are separated.
    firth_below
        See `firth`.
    n_permutations
        Draws for the family-wise p; 0: none.
    seed
        Of the permutations.
    """

    minimum_cases: int = 20
    refine: Literal["p", "all", "none"] = "p"
    refine_below: float = 0.05
    firth: bool = False
    firth_below: int = 50
    n_permutations: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.minimum_cases < FEWEST_CASES:
            raise ValueError(
                f"minimum_cases is {self.minimum_cases}; at least 5 are needed"
            )


@dataclass(frozen=True)
class Scan:
    """Associations of a block of phecodes, before correction.

    Attributes
    ----------
    table
        A row a pair, exposures within phecodes, with `COLUMNS`; those that only the whole
        scan or its runner can know are missing (NaN or empty).
    largest_z
        The largest absolute z of each permutation, shape ``(permutation,)``.
    """

    table: pd.DataFrame
    largest_z: Float64[Array, " permutation"]


# --- what will be tested ------------------------------------------------------------------


def plan_tests(
    status: PhecodeStatus, phecode_info: pd.DataFrame, *, minimum_cases: int
) -> pd.DataFrame:
    """Which phecodes will be tested, and why not.

    Parameters
    ----------
    phecode_info
        `phecode` and `sex_restriction`, a row each.

    Returns
    -------
    pd.DataFrame
        In the order of `status`: `phecode`, `cases`, `controls`, `n_excluded`, `code`
        (``"OK"``, ``"N_SEX"`` or ``"N_FEW_CASES"``).
    """
    cases = np.array([len(rows) for rows in status.case_rows], dtype=np.int64)
    excluded = np.array([len(rows) for rows in status.excluded_rows], dtype=np.int64)
    controls = status.n_patients - cases - excluded
    restriction = phecode_info.set_index("phecode")["sex_restriction"]
    one_sex = restriction.reindex(list(status.phecodes)).isin(["Female", "Male"]).to_numpy()
    few = np.minimum(cases, controls) < max(minimum_cases, FEWEST_CASES)
    code = np.where(few, "N_FEW_CASES", "OK").astype(object)
    code[one_sex & (cases + controls == 0)] = "N_SEX"
    return pd.DataFrame(
        {
            "phecode": list(status.phecodes),
            "cases": cases,
            "controls": controls,
            "n_excluded": excluded,
            "code": code,
        }
    )


# --- the scan -----------------------------------------------------------------------------


def associate(
    exposures: Exposures,
    status: PhecodeStatus,
    covariates: Covariates,
    *,
    phecode_info: pd.DataFrame,
    settings: AssociationSettings = AssociationSettings(),
    clusters: Int64[Array, " row"] | None = None,
    progress: Progress = lambda done, of: None,
) -> pd.DataFrame:
    """Test every exposure for association with every phecode.

    Parameters
    ----------
    exposures, status, covariates
        The same rows, a patient each.
    phecode_info
        `phecode`, `phecode_string`, `phecode_category`, `sex_restriction`.
    clusters
        The patient of each row, ascending from 0, where a patient has several: then only
        the robust score test is offered.
    progress
        Called with the pairs done and the pairs in all.

    Returns
    -------
    pd.DataFrame
        A row a pair with `COLUMNS`. `beta` is a log odds ratio per SD of the exposure, or
        per unit of a 0/1 exposure; `conf_int_1` and `conf_int_2` bound the odds ratio
        (95 %). `p_value` is that of `method`: ``"score"`` (beta is then the one-step
        estimate), ``"likelihood_ratio"`` (Wald interval), ``"firth"`` (profile interval)
        or ``"robust_score"``.
    """
    scan = scan_phecodes(
        exposures,
        status,
        covariates,
        phecode_info=phecode_info,
        settings=settings,
        clusters=clusters,
        progress=progress,
    )
    return correct_for_multiplicity(scan.table, scan.largest_z)


def correct_for_multiplicity(
    table: pd.DataFrame, largest_z: Float64[Array, " permutation"]
) -> pd.DataFrame:
    """Fill in the corrected p-values over all tests that a table holds."""
    p = table["p_value"].to_numpy(np.float64)
    corrected = table.assign(p_bonferroni=bonferroni(p), q_bh=benjamini_hochberg(p))
    if len(largest_z):
        # The score z of each pair against the largest of each permutation.
        z = table["score_z"].to_numpy(np.float64)
        reached = len(largest_z) - np.searchsorted(np.sort(largest_z), np.abs(z))
        family_wise = (1 + reached) / (1 + len(largest_z))
        corrected["p_permutation"] = np.where(np.isnan(z), np.nan, family_wise)
    return corrected.loc[:, list(COLUMNS)]


class _Cells:
    """The numbers of a block, shape ``(exposure, phecode)``; NaN where there is none."""

    def __init__(self, shape: tuple[int, int]) -> None:
        self.shape = shape
        self.cases = np.zeros(shape, dtype=np.int64)
        self.controls = np.zeros(shape, dtype=np.int64)
        self.n_excluded = np.zeros(shape, dtype=np.int64)
        self.numbers = {
            name: np.full(shape, np.nan)
            for name in (
                "beta", "standard_error", "p_value", "neg_log_p_value", "low", "high",
                "auc", "auc_conf_int_1", "auc_conf_int_2", "score_z",
            )
        }  # fmt: skip
        self.converged = np.zeros(shape, dtype=bool)
        self.method = np.full(shape, "", dtype=object)
        self.code = np.full(shape, "OK", dtype=object)
        self.note = np.full(shape, "", dtype=object)
        self.covariates = np.full(shape, "", dtype=object)

    def forget(self, at: tuple, code: str) -> None:
        """A pair that turned out to have no number."""
        for numbers in self.numbers.values():
            numbers[at] = np.nan
        self.converged[at] = False
        self.method[at] = ""
        self.code[at] = code


def scan_phecodes(
    exposures: Exposures,
    status: PhecodeStatus,
    covariates: Covariates,
    *,
    phecode_info: pd.DataFrame,
    settings: AssociationSettings,
    clusters: Int64[Array, " row"] | None = None,
    progress: Progress = lambda done, of: None,
) -> Scan:
    """Associations of some phecodes, uncorrected: a part of `associate`.

    Parts of one scan are put together by concatenating their tables and taking the larger
    of their `largest_z`: every part permutes the rows alike.
    """
    cells = _Cells((len(exposures.names), len(status)))
    largest_z = np.zeros(settings.n_permutations)
    n_pairs = cells.shape[0] * cells.shape[1]
    n_done = 0
    for chosen, rows in _by_missing(exposures.values):
        part = _Part(
            chosen,
            standardise(exposures.values[:, chosen], rows),
            status.at_rows(rows),
            covariates,
            rows,
            None if clusters is None else clusters[rows],
        )
        n_before = n_done
        for done in _scan_part(part, cells, phecode_info, settings, largest_z):
            n_done = n_before + done * len(chosen)
            progress(n_done, n_pairs)
        n_done = n_before + len(chosen) * len(status)
    progress(n_pairs, n_pairs)
    if covariates.collinear:
        is_tested = ~np.isnan(cells.numbers["p_value"])
        cells.code[is_tested] = first_code(["OK_FIRTH", "W_COLLINEAR"])
    return Scan(_table(cells, exposures, status, phecode_info), largest_z)


@dataclass(frozen=True)
class _Part:
    """Exposures that are missing in the same rows, and the rows that are left."""

    chosen: Int64[Array, " exposure"]
    exposures: Standardised
    status: PhecodeStatus
    covariates: Covariates
    rows: Int64[Array, " row"]
    clusters: Int64[Array, " row"] | None


def _by_missing(
    values: Float[Array, "row exposure"],
) -> Iterator[tuple[Int64[Array, " exposure"], Int64[Array, " row"]]]:
    """Exposures by the rows in which they are missing, and the other rows."""
    missing = np.isnan(values)
    groups: dict[bytes, list[int]] = {}
    for k in range(values.shape[1]):
        groups.setdefault(np.packbits(missing[:, k]).tobytes(), []).append(k)
    for members in groups.values():
        yield np.array(members), np.flatnonzero(~missing[:, members[0]])


def _scan_part(
    part: _Part,
    cells: _Cells,
    phecode_info: pd.DataFrame,
    settings: AssociationSettings,
    largest_z: Float64[Array, " permutation"],
) -> Iterator[int]:
    """Fill the cells of a part; yields how many phecodes are done."""
    status = part.status
    plan = plan_tests(status, phecode_info, minimum_cases=settings.minimum_cases)
    index = part.chosen[:, None]
    cells.cases[index, :] = plan["cases"].to_numpy()
    cells.controls[index, :] = plan["controls"].to_numpy()
    cells.n_excluded[index, :] = plan["n_excluded"].to_numpy()
    cells.code[index, :] = plan["code"].to_numpy()
    varies = _varies(part.exposures)
    constant = [first_code([code, "N_CONSTANT"]) for code in plan["code"]]
    cells.code[part.chosen[~varies]] = constant
    tested = np.flatnonzero(plan["code"] == "OK")
    done = len(status) - len(tested)
    yield done
    if not varies.any() or not len(tested):
        return
    names, values = part.covariates.names, part.covariates.values[part.rows]
    spread = values.std(axis=0) > 0
    kept_names = tuple(n for n, s in zip(names, spread, strict=True) if s)
    whole = design_of(kept_names, values[:, spread])
    left_out = dependent_columns(whole, status.at_phecodes(tested))
    blocks = list(_blocks(tested, left_out))
    for columns_out, phecodes in blocks:
        design, block = _model(whole, columns_out, status, phecodes)
        null = fit_null(design, block)
        if part.clusters is None:
            scores = score_test(design, part.exposures, block, null)
        else:
            scores = clustered_score_test(
                design, part.exposures, block, null, part.clusters
            )
        _write_scores(cells, part, phecodes, scores, null, design, varies)
        _write_auc(cells, part, phecodes)
        if part.clusters is None and settings.refine != "none":
            _refine(cells, part, phecodes, design, block, null, scores, settings)
        done += len(phecodes)
        yield done
    if settings.n_permutations:
        _permute(part, blocks, whole, settings, largest_z)


def _varies(exposures: Standardised) -> Bool[Array, " exposure"]:
    lowest = exposures.values[exposures.rows].min(axis=0, initial=np.inf)
    highest = exposures.values[exposures.rows].max(axis=0, initial=-np.inf)
    return lowest < highest


def _blocks(
    tested: Int64[Array, " phecode"], left_out: Sequence[tuple[int, ...]]
) -> Iterator[tuple[tuple[int, ...], Int64[Array, " phecode"]]]:
    """Phecodes whose models have the same columns, a block at a time."""
    for columns in sorted(set(left_out)):
        members = [j for j, out in zip(tested, left_out, strict=True) if out == columns]
        for first in range(0, len(members), PHECODES_AT_ONCE):
            yield columns, np.array(members[first : first + PHECODES_AT_ONCE])


def _model(
    whole: Design,
    columns_out: tuple[int, ...],
    status: PhecodeStatus,
    phecodes: Int64[Array, " phecode"],
) -> tuple[Design, StatusBlock]:
    kept = [k for k in range(len(whole.names)) if k not in columns_out]
    design = whole.at_columns(kept) if columns_out else whole
    return design, StatusBlock(status.at_phecodes(phecodes))


def _write_scores(
    cells: _Cells,
    part: _Part,
    phecodes: Int64[Array, " phecode"],
    scores: Scores,
    null: NullFits,
    design: Design,
    varies: Bool[Array, " exposure"],
) -> None:
    from scipy.special import ndtr

    at = np.ix_(part.chosen, phecodes)
    z = scores.z
    error = 1 / np.sqrt(scores.information)
    is_tested = np.isfinite(z) & varies[:, None] & null.converged
    z = np.where(is_tested, z, np.nan)
    beta = np.where(is_tested, scores.one_step, np.nan)
    # The robust variance changes the score's, so the estimate takes its error from z.
    if part.clusters is not None:
        error = np.abs(beta / z)
    for name, value in {
        "score_z": z,
        "beta": beta,
        "standard_error": np.where(is_tested, error, np.nan),
        "p_value": 2 * ndtr(-np.abs(z)),
        "neg_log_p_value": neg_log10_p_of_z(z),
        "low": beta - 1.959963984540054 * error,
        "high": beta + 1.959963984540054 * error,
    }.items():
        cells.numbers[name][at] = value
    code = np.where(
        is_tested, "OK", np.where(null.converged, "N_CONSTANT", "N_NOT_CONVERGED")
    )
    cells.code[at] = code
    cells.method[at] = np.where(
        is_tested, "score" if part.clusters is None else "robust_score", ""
    )
    cells.converged[at] = is_tested
    cells.covariates[at] = ", ".join(design.names[1:])
    gone = [name for name in part.covariates.names if name not in design.names]
    note = "; ".join(f"{name} does not vary among those eligible" for name in gone)
    cells.note[at] = note
    aliased = ~is_tested & null.converged & varies[:, None]
    if aliased.any():
        reason = "the covariates determine the exposure among those eligible"
        cells.note[at] = np.where(aliased, _joined(note, reason), cells.note[at])


def _joined(*notes: str) -> str:
    return "; ".join(note for note in notes if note)


def _write_auc(cells: _Cells, part: _Part, phecodes: Int64[Array, " phecode"]) -> None:
    values = part.exposures.values
    if len(part.exposures.rows) != len(values):
        values = values[part.exposures.rows]
    areas = delong_all_pairs(values, part.status.at_phecodes(phecodes))
    at = np.ix_(part.chosen, phecodes)
    is_tested = ~np.isnan(cells.numbers["p_value"][at])
    for name, value in {
        "auc": areas.auc,
        # A patient with several rows makes DeLong's interval too short.
        "auc_conf_int_1": np.nan if part.clusters is not None else areas.low,
        "auc_conf_int_2": np.nan if part.clusters is not None else areas.high,
    }.items():
        cells.numbers[name][at] = np.where(is_tested, value, np.nan)


def _refine(
    cells: _Cells,
    part: _Part,
    phecodes: Int64[Array, " phecode"],
    design: Design,
    block: StatusBlock,
    null: NullFits,
    scores: Scores,
    settings: AssociationSettings,
) -> None:
    """Replace the score test by a fit where one is asked for."""
    p = cells.numbers["p_value"][np.ix_(part.chosen, phecodes)]
    wanted = ~np.isnan(p)
    if settings.refine == "p":
        wanted &= p < settings.refine_below
    everyone = slice(0, block.n_rows)
    some, columns = np.zeros(0, dtype=np.int64), np.zeros((0, 0))
    for j, phecode in enumerate(phecodes.tolist()):
        chosen = np.flatnonzero(wanted[:, j])
        for first in range(0, len(chosen), EXPOSURES_AT_ONCE):
            before, some = some, chosen[first : first + EXPOSURES_AT_ONCE]
            if not np.array_equal(before, some):  # where all are fitted they stay the same
                columns = part.exposures.at_exposures(some).block(everyone)
            fits = fit_exposures(
                design,
                columns,
                case_rows=block.case_rows[j],
                excluded_rows=block.excluded_rows[j],
                start=scores.start(null, j, some),
            )
            at = (part.chosen[some], phecode)
            cells.numbers["beta"][at] = fits.log_odds_ratio
            cells.numbers["standard_error"][at] = fits.standard_error
            cells.numbers["neg_log_p_value"][at] = neg_log10_p_of_chi2(
                fits.likelihood_ratio
            )
            _wald_interval(cells, at)
            cells.method[at] = "likelihood_ratio"
            cells.converged[at] = fits.converged
            fewer = min(block.n_cases[j], block.n_controls[j])
            rare = fewer < settings.firth_below or settings.firth
            penalised = np.flatnonzero(rare | ~fits.converged)
            if len(penalised):
                _fit_penalised(
                    cells, part, phecode, design, columns, some, penalised,
                    fits.separated, null.coefficients[:, j],
                )  # fmt: skip
            cells.numbers["p_value"][at] = 10.0 ** -cells.numbers["neg_log_p_value"][at]
            for exposure in at[0][~cells.converged[at]]:
                cells.forget((exposure, phecode), "N_NOT_CONVERGED")


def _wald_interval(cells: _Cells, at: tuple) -> None:
    beta, error = cells.numbers["beta"][at], cells.numbers["standard_error"][at]
    cells.numbers["low"][at] = beta - 1.959963984540054 * error
    cells.numbers["high"][at] = beta + 1.959963984540054 * error


def _fit_penalised(
    cells: _Cells,
    part: _Part,
    phecode: int,
    design: Design,
    columns: Float64[Array, "row exposure"],
    exposures: Int64[Array, " exposure"],
    penalised: Int64[Array, " which"],
    separated: Bool[Array, " exposure"],
    null_coefficients: Float64[Array, " column"],
) -> None:
    """Firth's fit of some exposures of one phecode."""
    status = part.status.column(phecode)
    eligible = np.flatnonzero(status != CaseStatus.EXCLUDED)
    is_case = status[eligible] == CaseStatus.CASE
    columns = columns[np.ix_(eligible, penalised)]
    fits = fit_firth(design.at_rows(eligible), columns, is_case)
    tail = _sparse_tail(columns, is_case, design.values[eligible] @ null_coefficients)
    p = neg_log10_p_of_chi2(fits.likelihood_ratio)
    at = (part.chosen[exposures[penalised]], phecode)
    for name, value in {
        "beta": fits.log_odds_ratio,
        "standard_error": fits.standard_error,
        "low": fits.low,
        "high": fits.high,
        "neg_log_p_value": np.minimum(p, tail),
    }.items():
        cells.numbers[name][at] = value
    for exposure in at[0][tail < p]:
        cells.note[exposure, phecode] = _joined(
            cells.note[exposure, phecode],
            "p is the exact tail: hardly a patient was expected where some were seen",
        )
    cells.method[at] = "firth"
    cells.converged[at] = fits.converged
    for exposure in at[0][separated[penalised]]:
        cells.code[exposure, phecode] = "OK_FIRTH"
        cells.note[exposure, phecode] = _joined(
            cells.note[exposure, phecode],
            "separated: without the penalty there is no finite estimate",
        )


def _sparse_tail(
    columns: Float64[Array, "row exposure"],
    is_case: Bool[Array, " row"],
    null_logit: Float64[Array, " row"],
) -> Float64[Array, " exposure"]:
    """-log10 of the p that a 0/1 exposure has at least; infinite where nothing is sparse.

    Where fewer than `SPARSE` patients are expected in a cell, a single one decides, and the
    penalised likelihood ratio calls it significant at 0.05 more often than that: up to
    every tenth time with 5 to 8 cases. There the tail of the Poisson distribution that the
    null model expects is the p-value.
    """
    from scipy.special import expit, gammainc

    exposed = columns == columns.max(axis=0)
    is_binary = (exposed | (columns == columns.min(axis=0))).all(axis=0)
    mean = expit(null_logit)
    worst = np.full(columns.shape[1], np.inf)
    for seen, likely in ((is_case, mean), (~is_case, 1 - mean)):
        for inside in (exposed, ~exposed):
            observed, expected = seen @ inside.astype(float), likely @ inside.astype(float)
            p = np.where(observed > 0, gammainc(np.maximum(observed, 1), expected), 1.0)
            applies = is_binary & (expected < SPARSE)
            worst[applies] = np.minimum(worst, -np.log10(np.maximum(p, 1e-300)))[applies]
    return worst


def _permute(
    part: _Part,
    blocks: Sequence[tuple[tuple[int, ...], Int64[Array, " phecode"]]],
    whole: Design,
    settings: AssociationSettings,
    largest_z: Float64[Array, " permutation"],
) -> None:
    """Raise `largest_z` to the largest z of this part under each permutation.

    The rows of all exposures are permuted together, within strata of the covariates, and
    alike for all phecodes, so that what is alike among exposures and among phecodes stays
    alike (Westfall & Young 1993).
    """
    covariates = Covariates(part.covariates.names, part.covariates.values[part.rows])
    strata = permutation_strata(covariates)
    models = [
        (design, block, fit_null(design, block))
        for design, block in (
            _model(whole, columns, part.status, phecodes) for columns, phecodes in blocks
        )
    ]
    for draw in range(settings.n_permutations):
        rng = np.random.default_rng([settings.seed, draw])
        moved = part.exposures.permuted(permute_within(strata, rng))
        for design, block, null in models:
            z = np.abs(score_test(design, moved, block, null).z[:, null.converged])
            finite = z[np.isfinite(z)]
            largest_z[draw] = max(largest_z[draw], finite.max(initial=0))


def _table(
    cells: _Cells, exposures: Exposures, status: PhecodeStatus, phecode_info: pd.DataFrame
) -> pd.DataFrame:
    """A row a pair: the exposures of the first phecode, then those of the second ..."""
    n_exposures, n_phecodes = cells.shape
    info = phecode_info.set_index("phecode").reindex(list(status.phecodes))
    numbers = {name: value.T.ravel() for name, value in cells.numbers.items()}
    code = cells.code.T.ravel()
    is_tested = ~np.isnan(numbers["p_value"])
    with np.errstate(over="ignore"):
        odds = {name: np.exp(numbers[name]) for name in ("beta", "low", "high")}

    def by_phecode(values: Sequence[str] | Array) -> Array:
        return np.repeat(np.array(values, dtype=object), n_exposures)

    cases, controls = cells.cases.T.ravel(), cells.controls.T.ravel()
    return pd.DataFrame(
        {
            "exposure": np.tile(np.array(exposures.names, dtype=object), n_phecodes),
            "exposure_kind": np.tile(np.array(exposures.kinds, dtype=object), n_phecodes),
            "phecode": by_phecode(status.phecodes),
            "phecode_string": by_phecode(info["phecode_string"].to_numpy()),
            "phecode_category": by_phecode(info["phecode_category"].to_numpy()),
            "sex_restriction": by_phecode(info["sex_restriction"].to_numpy()),
            "cases": cases,
            "controls": controls,
            "n_total": cases + controls,
            "n_excluded": cells.n_excluded.T.ravel(),
            "beta": numbers["beta"],
            "standard_error": numbers["standard_error"],
            "p_value": numbers["p_value"],
            "neg_log_p_value": numbers["neg_log_p_value"],
            "odds_ratio": odds["beta"],
            "conf_int_1": odds["low"],
            "conf_int_2": odds["high"],
            "auc": numbers["auc"],
            "auc_conf_int_1": numbers["auc_conf_int_1"],
            "auc_conf_int_2": numbers["auc_conf_int_2"],
            "method": cells.method.T.ravel(),
            "converged": cells.converged.T.ravel(),
            "p_bonferroni": np.nan,
            "q_bh": np.nan,
            "p_permutation": np.nan,
            "status": np.where(is_tested, "tested", "not_tested"),
            "code": code,
            "note": cells.note.T.ravel(),
            "covariates": cells.covariates.T.ravel(),
            "model_version": "",
            "run_id": "",
            "score_z": numbers["score_z"],
        }
    )
