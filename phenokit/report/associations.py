"""The result of an association run in words and rows: what page, command and export say.

The columns are those of ``associations.parquet`` with the same names everywhere. A number
never stands alone: a p-value names its method, an odds ratio its interval and unit, and a
pair that was not tested its reason.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import floor, isnan, log10
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from phenokit.errors import CODES, BadInput
from phenokit.evidence.associations import COLUMNS
from phenokit.report.ecg_paper import BANNER
from phenokit.report.explanation import count, format_json
from phenokit.report.tables import format_table
from phenokit.statements import clinical_name

if TYPE_CHECKING:
    import pyarrow as pa

FORMAT = "phenokit associations"
LEVEL = 0.05
"""Family-wise level of Bonferroni, and the false discovery rate of Benjamini-Hochberg."""

_REPEATED = (
    "exposure", "exposure_kind", "phecode", "phecode_string", "phecode_category",
    "sex_restriction", "method", "status", "code", "note", "covariates",
    "model_version", "run_id",
)  # fmt: skip
"""Text that repeats: read as dictionaries, so that half a million rows stay small."""

METHOD_WORDS = {
    "score": "score test",
    "likelihood_ratio": "likelihood ratio",
    "firth": "Firth's penalised likelihood",
    "robust_score": "score test, errors clustered by patient",
}
KIND_WORDS = {
    "prototype": "prototypes",
    "class": "class predictions",
    "prototype_class": "prototype classes",
    "feature": "further columns",
}


@dataclass(frozen=True)
class AssociationResult:
    """What a finished run of ``phenokit associate`` left in its folder.

    Attributes
    ----------
    folder
        The run folder.
    manifest, cohort
        As written: settings, counts, hashes; attrition, notes, rules.
    exposures
        A row an exposure.
    table
        The associations; see `evidence.associations.COLUMNS`.
    comparisons, sentences
        Tables and sentences of ``--compare`` by name; empty without it.
    survival
        Of ``--follow-up``; None without it.
    """

    folder: Path
    manifest: dict[str, Any]
    cohort: dict[str, Any]
    exposures: pd.DataFrame
    table: "pa.Table"
    comparisons: dict[str, pd.DataFrame] = field(default_factory=dict)
    sentences: dict[str, str] = field(default_factory=dict)
    survival: pd.DataFrame | None = None

    @property
    def n_tests(self) -> int:
        """Tests that were done: what Bonferroni divides by."""
        return int(self.manifest["n_tests"])

    def rows_of(self, exposure: str) -> pd.DataFrame:
        """The rows of one exposure, in the order of the phecode map."""
        return self._where("exposure", exposure)

    def rows_with(self, phecode: str) -> pd.DataFrame:
        """The rows of one phecode, the smallest p first."""
        rows = self._where("phecode", phecode)
        return rows.sort_values("neg_log_p_value", ascending=False, ignore_index=True)

    def _where(self, column: str, value: str) -> pd.DataFrame:
        import pyarrow.dataset as ds

        rows = self.table.filter(ds.field(column) == value).to_pandas()
        for name in rows.select_dtypes("category").columns:
            rows[name] = rows[name].astype(object)
        return rows


def read_result(folder: Path) -> AssociationResult:
    """Read the folder of a finished run.

    Raises
    ------
    BadInput
        ``E_MISSING`` if the run is not finished, ``E_FORMAT`` if it is another command's,
        ``E_COLUMNS`` naming what the table lacks.
    """
    import pyarrow.parquet as pq

    manifest = _read_json(folder / "manifest.json")
    if not manifest:
        raise BadInput("E_MISSING", "The run has no manifest: it is not finished.")
    if manifest.get("format") != FORMAT:
        raise BadInput("E_FORMAT", "The folder is not that of an association run.")
    try:
        names = pq.read_schema(folder / "associations.parquet").names
        missing = [name for name in COLUMNS if name not in names]
        if missing:
            raise BadInput("E_COLUMNS", f"The result lacks: {', '.join(missing)}.")
        with pq.ParquetFile(
            folder / "associations.parquet",
            page_checksum_verification=True,
            read_dictionary=list(_REPEATED),
        ) as file:
            table = file.read(columns=list(COLUMNS)).unify_dictionaries()
    except (OSError, ValueError):
        raise BadInput("E_FORMAT", "associations.parquet cannot be read.") from None
    comparisons = {
        path.stem: pd.read_parquet(path)
        for path in sorted((folder / "comparisons").glob("*.parquet"))
    }
    survival = folder / "survival.parquet"
    return AssociationResult(
        folder,
        manifest,
        _read_json(folder / "cohort.json"),
        pd.read_parquet(folder / "exposures.parquet"),
        table,
        comparisons,
        _read_json(folder / "comparisons" / "sentences.json"),
        pd.read_parquet(survival) if survival.is_file() else None,
    )


# Rows


def rows_tested(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows that were tested, in their order."""
    return rows.loc[rows["status"] == "tested"].reset_index(drop=True)


def is_significant(rows: pd.DataFrame) -> pd.Series:
    """Whether each row holds at `LEVEL` after Bonferroni over all tests of the run."""
    return (rows["status"] == "tested") & (rows["p_bonferroni"] <= LEVEL)


def overview(result: AssociationResult) -> pd.DataFrame:
    """A row an exposure, the one with the smallest p first.

    Columns: exposure, exposure_kind, label, name, tested, significant, phecode,
    phecode_string, phecode_category, odds_ratio, conf_int_1, conf_int_2, p_value,
    neg_log_p_value (the last eight of its strongest association).
    """
    wanted = [
        "exposure", "phecode", "phecode_string", "phecode_category", "odds_ratio",
        "conf_int_1", "conf_int_2", "p_value", "neg_log_p_value", "p_bonferroni", "status",
    ]  # fmt: skip
    rows = result.table.select(wanted).to_pandas()
    rows = rows[rows["status"] == "tested"].reset_index(drop=True)
    by_exposure = rows.groupby("exposure", observed=True)
    best = rows.loc[by_exposure["neg_log_p_value"].idxmax().dropna()].set_index("exposure")
    table = result.exposures.set_index("exposure")[["exposure_kind", "label"]].copy()
    table["name"] = [exposure_name(result, str(name)) for name in table.index]
    table["tested"] = by_exposure.size().reindex(table.index, fill_value=0)
    n_significant = (rows["p_bonferroni"] <= LEVEL).groupby(rows["exposure"], observed=True)
    table["significant"] = n_significant.sum().reindex(table.index, fill_value=0)
    joined = table.join(best[wanted[1:-2]].astype(dict.fromkeys(wanted[1:4], object)))
    joined = joined.sort_values("neg_log_p_value", ascending=False, kind="stable")
    return joined.reset_index(names="exposure")


def top_rows(rows: pd.DataFrame, n: int) -> pd.DataFrame:
    """The tested rows with the smallest p, at most `n`."""
    best = rows_tested(rows).sort_values("neg_log_p_value", ascending=False, kind="stable")
    return best.head(n).reset_index(drop=True)


def with_names(rows: pd.DataFrame, result: AssociationResult) -> pd.DataFrame:
    """Rows of a comparison, each with the name of its phecode beside the code."""
    named = result.table.select(["phecode", "phecode_string"]).to_pandas()
    named = named.drop_duplicates("phecode").set_index("phecode")["phecode_string"]
    names = named.reindex(rows["phecode"]).astype(object).fillna("").to_numpy()
    table = rows.reset_index(drop=True)
    table.insert(1, "phecode_string", names)
    return table


def strongest_pairs(rows: pd.DataFrame, n: int = 30) -> pd.DataFrame:
    """Of a comparison within classes the pairs with the highest AUC of either, at most `n`.

    A phecode that has the same cases and controls as the one above it stands once, as the
    more specific one.
    """
    alike = ["label", "prototype", "cases", "controls", "prototype_auc", "other_auc"]
    apart = rows.drop_duplicates(alike, keep="last")
    highest = apart[["prototype_auc", "other_auc"]].max(axis=1).to_numpy()
    order = np.argsort(-np.nan_to_num(highest), kind="stable")
    return apart.iloc[order[:n]].reset_index(drop=True)


def search_rows(
    rows: pd.DataFrame, words: str, *, first: Sequence[str] = ()
) -> pd.DataFrame:
    """Rows whose phecode, name or category holds these words, in any case of letters.

    Parameters
    ----------
    first
        Phecodes that stand before the others.
    """
    text = rows["phecode"].str.cat(rows[["phecode_string", "phecode_category"]], sep=" ")
    holds = text.str.lower().str.contains(words.lower().strip(), regex=False)
    found = rows.loc[holds]
    order = np.argsort(~found["phecode"].isin(list(first)).to_numpy(bool), kind="stable")
    return found.iloc[order].reset_index(drop=True)


def not_tested_table(rows: pd.DataFrame) -> pd.DataFrame:
    """How many rows were not tested, by code and reason: nothing is dropped silently."""
    lacking = rows.loc[rows["status"] != "tested"]
    counts = lacking["code"].value_counts()
    return pd.DataFrame(
        {
            "code": counts.index.astype(object),
            "reason": [reason_words(str(code)) for code in counts.index],
            "not_tested": counts.to_numpy(),
        }
    )


def hide_small(rows: pd.DataFrame, minimum: int) -> tuple[pd.DataFrame, int]:
    """Rows without those that tell of fewer patients than a site wants to show.

    Parameters
    ----------
    minimum
        A row is hidden if 1 to ``minimum - 1`` patients are its cases or its controls; 0
        shows all.

    Returns
    -------
    tuple
        What is left, and how many rows were hidden.
    """
    is_small = pd.Series(data=False, index=rows.index)
    for column in ("cases", "controls"):
        is_small |= (rows[column] > 0) & (rows[column] < minimum)
    return rows.loc[~is_small].reset_index(drop=True), int(is_small.sum())


# Words


def exposure_name(result: AssociationResult, exposure: str) -> str:
    """What an exposure is called on the page: with its label in clinical words.

    Text of unknown origin: a feature is called as its column is.
    """
    found = result.exposures[result.exposures["exposure"] == exposure]
    if found.empty:
        return exposure
    one = found.iloc[0]
    label = str(one["label"] or "")
    kind = str(one["exposure_kind"])
    if kind == "feature" or not label:
        return exposure
    try:
        name = clinical_name(label)
    except KeyError:
        name = label
    if kind == "prototype":
        return f"Prototype {exposure.removeprefix('prototype ')}: {name}"
    if kind == "class":
        return f"Class prediction: {name}"
    how = exposure.rpartition(" ")[2]
    how = {"max": "highest similarity", "mean": "mean similarity"}.get(how, how)
    return f"All prototypes of a class, {how}: {name}"


def unit_words(kind: str) -> str:
    """What an odds ratio is per."""
    if kind == "feature":
        return "per standard deviation (per unit where the column is 0 or 1)"
    return "per standard deviation"


def format_p(neg_log_p: float) -> str:
    """A p-value with two digits, from its -log10, so that it never becomes 0.

    Examples
    --------
    >>> [format_p(x) for x in (8.495, 412.7, 1.5, 0.0)]
    ['3.2e-9', '2.0e-413', '0.032', '1.0']
    """
    if isnan(neg_log_p):
        return "not tested"
    if neg_log_p < 3:
        p = float(f"{10**-neg_log_p:.1e}")
        return f"{p:.{max(1, 1 - floor(log10(p)))}f}"
    exponent = -floor(neg_log_p) - 1
    mantissa = f"{10 ** (-neg_log_p - exponent):.1f}"
    if mantissa == "10.0":
        mantissa, exponent = "1.0", exponent + 1
    return f"{mantissa}e{exponent}"


def format_odds_ratio(odds_ratio: float, low: float, high: float) -> str:
    """An odds ratio with its 95 % interval.

    Examples
    --------
    >>> format_odds_ratio(1.42, 1.2, 1.684), format_odds_ratio(31.26, 8.4, 5200.0)
    ('1.42 (1.20–1.68)', '31.3 (8.40–> 1,000)')
    >>> format_odds_ratio(1.42, float("nan"), float("nan"))
    '1.42 (no interval)'
    """
    if isnan(odds_ratio):
        return "not tested"
    interval = "no interval" if isnan(low) or isnan(high) else f"{_odds(low)}–{_odds(high)}"
    return f"{_odds(odds_ratio)} ({interval})"


def _odds(value: float) -> str:
    if value > 1000:
        return "> 1,000"
    if 0 < value < 0.001:
        return "< 0.001"
    if value >= 10:
        return f"{value:.0f}" if value >= 100 else f"{value:.1f}"
    return f"{value:.2f}" if value >= 0.1 else f"{value:.2g}"


def format_auc(auc: float, low: float, high: float) -> str:
    """An AUC with its 95 % interval.

    Examples
    --------
    >>> format_auc(0.8912, 0.871, 0.909), format_auc(0.6, float("nan"), float("nan"))
    ('0.89 (0.87–0.91)', '0.60 (no interval: not among the refitted pairs)')
    """
    if isnan(auc):
        return "not computed"
    if isnan(low) or isnan(high):
        return f"{auc:.2f} (no interval: not among the refitted pairs)"
    return f"{auc:.2f} ({low:.2f}–{high:.2f})"


def reason_words(code: str, *, minimum_cases: int | None = None) -> str:
    """Why a pair was not tested, or what is special about its test.

    Examples
    --------
    >>> reason_words("N_FEW_CASES", minimum_cases=20)
    'fewer than 20 cases or fewer than 20 controls'
    """
    if code == "N_FEW_CASES" and minimum_cases is not None:
        return f"fewer than {minimum_cases} cases or fewer than {minimum_cases} controls"
    return CODES.get(code, code).removeprefix("Not tested: ").rstrip(".")


def coverage_sentence(
    n_tested: int, not_tested: Mapping[str, int], *, minimum_cases: int | None = None
) -> str:
    """How many phecodes are tested and why the others are not.

    Parameters
    ----------
    not_tested
        Phecodes by code.

    Examples
    --------
    >>> coverage_sentence(143, {"N_CONSTANT": 2})
    '143 of 145 phecodes are tested. Not tested: 2 (the exposure does not vary).'
    """
    total = n_tested + sum(not_tested.values())
    sentence = f"{n_tested:,} of {count(total, 'phecode')} are tested."
    reasons = [
        f"{number:,} ({reason_words(code, minimum_cases=minimum_cases)})"
        for code, number in sorted(not_tested.items(), key=lambda one: -one[1])
        if number
    ]
    return f"{sentence} Not tested: {'; '.join(reasons)}." if reasons else sentence


def finding_sentence(row: Mapping[Any, Any]) -> str:
    """One association in a sentence, with everything that a number needs beside it."""
    who = f"{row['phecode']} {row['phecode_string']}"
    numbers = f"{int(row['cases']):,} cases, {int(row['controls']):,} controls"
    if row["status"] != "tested":
        return f"{who}: not tested, {reason_words(str(row['code']))} ({numbers})."
    odds = format_odds_ratio(row["odds_ratio"], row["conf_int_1"], row["conf_int_2"])
    words = METHOD_WORDS.get(str(row["method"]), str(row["method"]))
    return (
        f"{who}: odds ratio {odds} {unit_words(str(row['exposure_kind']))}, "
        f"p = {format_p(row['neg_log_p_value'])} ({words}); {numbers}."
    )


def attrition_table(cohort: Mapping[str, Any]) -> pd.DataFrame:
    """Every rule that the cohort passed, with what it left and what it dropped."""
    steps = [dict(step) for step in cohort.get("attrition", ())]
    columns = [
        "rule",
        "n_patients",
        "dropped_patients",
        "n_recordings",
        "dropped_recordings",
    ]
    return pd.DataFrame(steps).reindex(columns=pd.Index(columns))


# Files


def export_associations(
    rows: pd.DataFrame, result: AssociationResult, name: str, *, version: str, kind: str
) -> dict[str, bytes]:
    """Rows as a file, and what they have to be kept with.

    Parameters
    ----------
    name
        Of the files, without ending.
    version
        Of the code.
    kind
        ``"csv"``, ``"tsv"`` or ``"parquet"``. Text that a spreadsheet would run as a
        formula starts with an apostrophe in the first two.

    Returns
    -------
    dict
        Bytes by file name; ``<name>.json`` holds settings and hashes.
    """
    if kind == "parquet":
        data = _parquet(rows)
    else:
        data = format_table(rows, separator="\t" if kind == "tsv" else ",")
    manifest = result.manifest
    sidecar = {
        "notice": BANNER,
        "phenokit": version,
        "run_id": manifest.get("run_id"),
        "model": manifest.get("model"),
        "bundle_hash": manifest.get("bundle_hash"),
        "plan_hash": manifest.get("plan_hash"),
        "settings": manifest.get("settings"),
        "n_tests": result.n_tests,
        "phecode_version": result.cohort.get("phecode_version"),
        "citation": result.cohort.get("citation"),
        "case_rule": result.cohort.get("case_rule"),
        "linking": result.cohort.get("linking"),
        "rows": len(rows),
        "columns": {column: COLUMN_WORDS.get(column, "") for column in rows.columns},
        "files": {f"{name}.{kind}": hashlib.sha256(data).hexdigest()},
    }
    return {f"{name}.{kind}": data, f"{name}.json": format_json(sidecar)}


COLUMN_WORDS = {
    "exposure": "what the phecode is tested against",
    "exposure_kind": "prototype, class, prototype_class or feature",
    "phecode": "code, always text",
    "cases": "patients with the phecode",
    "controls": "patients surely without it",
    "n_total": "cases and controls with an exposure",
    "n_excluded": "patients of whom neither can be said",
    "beta": "log odds ratio per standard deviation of the exposure (0/1: per unit)",
    "standard_error": "of beta",
    "p_value": "two-sided, see method",
    "neg_log_p_value": "-log10 of p_value, exact where p_value has become 0",
    "odds_ratio": "exp(beta)",
    "conf_int_1": "lower 95 % limit of the odds ratio",
    "conf_int_2": "upper 95 % limit of the odds ratio",
    "auc": "area under the ROC curve of the exposure alone, unadjusted",
    "auc_conf_int_1": "lower 95 % limit (DeLong)",
    "auc_conf_int_2": "upper 95 % limit (DeLong)",
    "method": "score, likelihood_ratio, firth or robust_score",
    "p_bonferroni": "p_value times the number of tests of the run, at most 1",
    "q_bh": "false discovery rate of Benjamini and Hochberg",
    "p_permutation": "family-wise p by permutation; empty without --permutations",
    "status": "tested or not_tested",
    "code": "outcome code: why not tested, or what is special",
    "note": "the same in words",
}
"""What each column holds, for the data dictionary of an export."""


def _parquet(rows: pd.DataFrame) -> bytes:
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    table = pa.Table.from_pandas(rows, preserve_index=False)
    pq.write_table(table, buffer, compression="zstd", write_page_checksum=True)
    return buffer.getvalue()


def _read_json(path: Path) -> dict[str, Any]:
    try:
        read = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return read if isinstance(read, dict) else {}
