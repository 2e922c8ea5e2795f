"""Do prototypes say more than classes? The paper's comparisons, on one cohort.

Sethi et al. (PSB 2026, doi:10.1142/9789819824755_0049) hold prototypes against class
predictions in four ways, and so does this module:

- the best prototype of each phecode against the best class, prototype class and feature,
  and the best prototype of each class against the prediction of that class;
- specificity: in how many phecode categories an exposure is significant;
- classes whose prototypes differ in significance: are these prototypes further apart?
- prediction of a phecode from all prototypes together against all classes together.

Where it departs from the paper. Of 300 prototypes and 30 classes the best prototype has ten
times as many tries: `best_per_phecode_held_out` chooses on one half of the patients and
compares on the other. A class counts once in the test of distances; with one vote a phecode
(reported beside it) the same distances are counted over and over.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from phenokit.cohort import CaseStatus, PhecodeStatus
from phenokit.evidence.auc import auc_all_pairs, delong, delong_difference
from phenokit.evidence.multiplicity import benjamini_hochberg

KIND_NAMES = {
    "prototype": "prototype",
    "class": "class prediction",
    "prototype_class": "prototype class",
    "feature": "feature",
}
"""What a sentence calls an exposure kind."""

PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Values of C (inverse of the L2 penalty) that a training fold chooses from."""


@dataclass(frozen=True)
class BestPerPhecode:
    """The best prototype of each phecode against the best exposure of another kind.

    Attributes
    ----------
    table
        A row a phecode and other kind: ``phecode, against_kind, prototype,
        prototype_direction, other, other_direction, n_prototypes, n_others, cases,
        controls, prototype_auc, prototype_auc_conf_int_1, prototype_auc_conf_int_2,
        other_auc, other_auc_conf_int_1, other_auc_conf_int_2, difference, conf_int_1,
        conf_int_2, p_value, q_bh``. `difference` is prototype minus other (paired
        DeLong); `q_bh` is over the phecodes of one kind. A direction is ``"higher"`` or
        ``"lower"``: how the exposure lies in cases; its AUC is taken in that direction.
    held_out
        Whether choice and direction come from other patients than the AUCs.
    """

    table: pd.DataFrame
    held_out: bool

    def sentence(self, against_kind: str = "class", *, level: float = 0.05) -> str:
        """What the comparison with one kind comes to."""
        is_compared = self.table["p_value"].notna()
        compared = _rows(
            self.table, is_compared & (self.table["against_kind"] == against_kind)
        )
        name = KIND_NAMES.get(against_kind, against_kind)
        if compared.empty:
            return f"No phecode allows a comparison of prototypes with a {name}."
        is_clear = compared["q_bh"] < level
        better = int((is_clear & (compared["difference"] > 0)).sum())
        worse = int((is_clear & (compared["difference"] < 0)).sum())
        candidates = (
            f"{compared['n_prototypes'].iloc[0]} prototypes and "
            f"{compared['n_others'].iloc[0]} of the other kind"
        )
        how = (
            f"Chosen among {candidates} on one half of the patients, compared on the other."
            if self.held_out
            else f"Chosen among {candidates} and compared in the same patients, which "
            "favours the kind with more candidates."
        )
        return (
            f"In {better} of {_phecodes(len(compared))} the best prototype has a higher "
            f"AUC than the best {name}, in {worse} a lower one (paired DeLong, "
            f"Benjamini-Hochberg q < {level:g}); the median AUC is "
            f"{compared['prototype_auc'].median():.3f} against "
            f"{compared['other_auc'].median():.3f}. {how}"
        )


def best_per_phecode(
    values: Float[np.ndarray, "patient exposure"],
    names: Sequence[str],
    kinds: Sequence[str],
    status: PhecodeStatus,
    *,
    associations: pd.DataFrame,
) -> BestPerPhecode:
    """Compare the best prototype with the best of each other kind, in all patients.

    Parameters
    ----------
    values
        NaN where missing. A comparison leaves out the patients in whom a prototype or an
        exposure of the other kind is missing.
    names, kinds
        Of the exposures.
    status
        Case status in the order of the rows of `values`.
    associations
        The table of a scan: phecodes of which no pair was tested are left out.
    """
    every = np.ones(len(values), dtype=bool)
    return _best(values, names, kinds, status, associations, every, every)


def best_per_phecode_held_out(
    values: Float[np.ndarray, "patient exposure"],
    names: Sequence[str],
    kinds: Sequence[str],
    status: PhecodeStatus,
    *,
    associations: pd.DataFrame,
    patient_ids: Sequence[str],
    rng: np.random.Generator,
) -> BestPerPhecode:
    """Choose the best on a random half of the patients, compare on the other half.

    The direction of an exposure is chosen with it, so that an AUC below 0.5 says that the
    choice did not hold. Parameters as of `best_per_phecode`.

    Parameters
    ----------
    patient_ids
        Whose row it is: all rows of a patient go into the same half.
    rng
        Draws the halves.
    """
    halves = split_patients(patient_ids, rng)
    return _best(values, names, kinds, status, associations, *halves)


@dataclass(frozen=True)
class BestWithinClass:
    """The best prototype of a class against the prediction of that class.

    Attributes
    ----------
    table
        A row a class and phecode, where the class or a prototype of it is significant:
        ``label`` and the columns of `BestPerPhecode`; `q_bh` is over all rows.
    held_out
        Whether choice and direction come from other patients than the AUCs.
    """

    table: pd.DataFrame
    held_out: bool

    def sentence(self, *, level: float = 0.05) -> str:
        """What the comparison comes to."""
        compared = _rows(self.table, self.table["p_value"].notna().to_numpy())
        if compared.empty:
            return "No class has a significant phecode to compare its prototypes in."
        is_clear = compared["q_bh"] < level
        better = int((is_clear & (compared["difference"] > 0)).sum())
        worse = int((is_clear & (compared["difference"] < 0)).sum())
        patients = "other patients" if self.held_out else "the same patients"
        return (
            f"Of {len(compared)} pairs of a class and a phecode, the best prototype of the "
            f"class has a higher AUC than the prediction of the class in {better}, a lower "
            f"one in {worse} (paired DeLong, Benjamini-Hochberg q < {level:g}); the median "
            f"difference is {compared['difference'].median():+.3f}. Prototypes were chosen "
            f"in {patients}."
        )


def best_within_class(
    values: Float[np.ndarray, "patient exposure"],
    names: Sequence[str],
    kinds: Sequence[str],
    labels: Sequence[str],
    status: PhecodeStatus,
    *,
    associations: pd.DataFrame,
    halves: tuple[Bool[np.ndarray, " patient"], Bool[np.ndarray, " patient"]] | None = None,
    level: float = 0.05,
) -> BestWithinClass:
    """Compare the best prototype of each class with the prediction of its own class.

    Parameters
    ----------
    labels
        Class of each exposure; the others as of `best_per_phecode`.
    halves
        Rows to choose in, and rows to compare in (`split_patients`); `None`: all in both.
    level
        Bonferroni-corrected p from which a phecode counts.
    """
    every = np.ones(len(values), dtype=bool)
    choose, compare = halves or (every, every)
    is_hit = associations["p_bonferroni"].to_numpy() < level
    hits = associations.loc[is_hit, ["exposure", "phecode"]]
    tables = []
    classes = [of for of, k in zip(labels, kinds, strict=True) if k == "class"]
    for one in dict.fromkeys(classes):
        columns = [
            k
            for k, of in enumerate(labels)
            if of == one and kinds[k] in ("prototype", "class")
        ]
        if all(kinds[k] == "class" for k in columns):
            continue
        own = {names[k] for k in columns}
        found = set(hits.loc[hits["exposure"].isin(own), "phecode"])
        chosen = [j for j, phecode in enumerate(status.phecodes) if phecode in found]
        best = _best(
            values[:, columns],
            [names[k] for k in columns],
            [kinds[k] for k in columns],
            status.at_phecodes(chosen),
            associations,
            choose,
            compare,
        )
        if len(best.table):
            tables.append(best.table.assign(label=one))
    table = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()
    if table.empty:
        table = pd.DataFrame(
            columns=pd.Index([*_BEST, *_COMPARED, "q_bh", "label"]), dtype=float
        )
    else:
        table = _with_q(table)
    front = ["label", *(name for name in table.columns if name != "label")]
    return BestWithinClass(table.loc[:, front], held_out=halves is not None)


def split_patients(
    patient_ids: Sequence[str], rng: np.random.Generator
) -> tuple[Bool[np.ndarray, " row"], Bool[np.ndarray, " row"]]:
    """A random half of the patients and the other half, as rows."""
    patients, patient = np.unique(np.asarray(patient_ids), return_inverse=True)
    is_first = (rng.permutation(len(patients)) < len(patients) / 2)[patient]
    return is_first, ~is_first


@dataclass(frozen=True)
class Specificity:
    """In how many phecode categories each exposure is significant.

    Attributes
    ----------
    table
        A row an exposure: ``exposure, exposure_kind, n_tested, n_phecodes, n_categories,
        categories``; the last three over the significant phecodes.
    level
        Bonferroni-corrected p from which a phecode counts.
    """

    table: pd.DataFrame
    level: float

    def sentence(self, against_kind: str = "class") -> str:
        """Prototypes against one kind, among exposures with a significant phecode."""
        from scipy.stats import mannwhitneyu

        kind = self.table["exposure_kind"].to_numpy()
        n_categories = self.table["n_categories"].to_numpy()
        ours, other = (
            n_categories[(n_categories > 0) & (kind == k)]
            for k in ("prototype", against_kind)
        )
        name = KIND_NAMES.get(against_kind, against_kind)
        if len(ours) == 0 or len(other) == 0:
            return f"Too few significant exposures to compare prototypes with a {name}."
        p = mannwhitneyu(ours, other, alternative="two-sided").pvalue
        return (
            f"A prototype with a significant phecode is significant in a median of "
            f"{np.median(ours):g} phecode categories ({len(ours)} prototypes), a {name} in "
            f"{np.median(other):g} ({len(other)}); two-sided Mann-Whitney p = {p:.2g}."
        )


def specificity(associations: pd.DataFrame, *, level: float = 0.05) -> Specificity:
    """Count the phecode categories in which each exposure is significant.

    Fewer categories mean a more specific exposure, and also a weaker one: the number of
    phecodes stands beside.

    Parameters
    ----------
    associations
        The table of a scan.
    level
        Of the Bonferroni-corrected p.
    """
    is_tested = associations["status"].to_numpy() == "tested"
    is_significant = is_tested & (associations["p_bonferroni"].to_numpy() < level)
    position, exposures = pd.factorize(associations["exposure"])
    first = np.unique(position, return_index=True)[1]
    kinds = associations["exposure_kind"].to_numpy()[first]
    categories = associations["phecode_category"].to_numpy()
    rows = []
    for k, exposure in enumerate(exposures):
        hits = categories[is_significant & (position == k)]
        rows.append(
            {
                "exposure": exposure,
                "exposure_kind": kinds[k],
                "n_tested": int((is_tested & (position == k)).sum()),
                "n_phecodes": len(hits),
                "n_categories": len(set(hits)),
                "categories": "; ".join(sorted(set(hits))),
            }
        )
    return Specificity(pd.DataFrame(rows), level)


@dataclass(frozen=True)
class IntraClassDistance:
    """How far apart the prototypes of a class are, by whether they differ in significance.

    A class is mixed for a phecode if its prototypes are not all significant in one and the
    same direction, nor all without significance.

    Attributes
    ----------
    table
        A row a class: ``label, n_prototypes, distance`` (mean pairwise cosine distance, 0
        to 2; NaN with one prototype)``, n_phecodes`` (tested)``, n_significant`` (with a
        significant prototype)``, n_mixed, is_mixed`` (for any phecode).
    p_value
        One-sided Mann-Whitney: mixed classes have a larger distance than others. NaN
        where there are only mixed or only uniform classes.
    p_value_pairs
        The same with one vote a class and phecode, as in the paper; too small, because
        votes of one class are not independent.
    level
        Bonferroni-corrected p from which a prototype counts as significant.
    """

    table: pd.DataFrame
    p_value: float
    p_value_pairs: float
    level: float

    def sentence(self) -> str:
        """What the comparison comes to."""
        distance, is_mixed = (self.table[c].to_numpy() for c in ("distance", "is_mixed"))
        mixed, uniform = (
            distance[~np.isnan(distance) & chosen] for chosen in (is_mixed, ~is_mixed)
        )
        if len(mixed) == 0 or len(uniform) == 0:
            kind = "uniform" if len(mixed) == 0 else "mixed"
            n = len(mixed) + len(uniform)
            return f"All {n} classes are {kind}: there is nothing to compare."
        return (
            f"Prototypes of the {len(mixed)} classes with mixed significance are a median "
            f"cosine distance of {np.median(mixed):.3f} apart, those of the {len(uniform)} "
            f"uniform classes {np.median(uniform):.3f} (one-sided Mann-Whitney, a class "
            f"counted once: p = {self.p_value:.2g}; a class counted once a phecode, as in "
            f"the paper: p = {self.p_value_pairs:.2g})."
        )


def intra_class_distance(
    vectors: Sequence[Float[np.ndarray, " _feature"]],
    labels: Sequence[str],
    exposures: Sequence[str],
    *,
    associations: pd.DataFrame,
    level: float = 0.05,
) -> IntraClassDistance:
    """Compare the distance of prototypes in classes with mixed significance and others.

    Parameters
    ----------
    vectors
        Latent vector of each prototype; the same length within a class.
    labels
        The class whose prototype it is.
    exposures
        Its name in `associations`.
    associations
        The table of a scan. A class enters a phecode with the prototypes that were tested
        for it, and only where there are at least two.
    level
        Of the Bonferroni-corrected p.

    Raises
    ------
    ValueError
        If a vector is 0 throughout, or vectors of one class differ in length.
    """
    label_of = dict(zip(exposures, labels, strict=True))
    is_own = np.array([name in label_of for name in associations["exposure"]], dtype=bool)
    rows = _rows(associations, is_own & (associations["status"] == "tested"))
    votes = (
        pd.DataFrame(
            {
                "label": [label_of[name] for name in rows["exposure"]],
                "phecode": rows["phecode"],
                "direction": np.sign(rows["beta"]) * (rows["p_bonferroni"] < level),
            }
        )
        .groupby(["label", "phecode"], sort=False)["direction"]
        .agg(n="size", low="min", high="max")
        .reset_index()
    )
    votes = _rows(votes, votes["n"] > 1)
    voters = votes["label"].to_numpy()
    is_mixed = (votes["low"] != votes["high"]).to_numpy()
    is_significant = ((votes["low"] != 0) | (votes["high"] != 0)).to_numpy()
    table = []
    for label in dict.fromkeys(labels):
        own = [v for v, lab in zip(vectors, labels, strict=True) if lab == label]
        of_label = voters == label
        table.append(
            {
                "label": label,
                "n_prototypes": len(own),
                "distance": _mean_cosine_distance(own, label),
                "n_phecodes": int(of_label.sum()),
                "n_significant": int(is_significant[of_label].sum()),
                "n_mixed": int(is_mixed[of_label].sum()),
                "is_mixed": bool(is_mixed[of_label].any()),
            }
        )
    distance_of = {row["label"]: row["distance"] for row in table}
    return IntraClassDistance(
        pd.DataFrame(table),
        _p_larger(
            np.array(list(distance_of.values())), np.array([r["is_mixed"] for r in table])
        ),
        _p_larger(np.array([distance_of[label] for label in voters], float), is_mixed),
        level,
    )


@dataclass(frozen=True)
class MultivariablePrediction:
    """Phecodes predicted from all prototypes together, and from all classes together.

    Attributes
    ----------
    table
        A row a phecode: ``phecode, cases, controls, prototypes_auc,
        prototypes_auc_conf_int_1, prototypes_auc_conf_int_2, classes_auc,
        classes_auc_conf_int_1, classes_auc_conf_int_2, difference, conf_int_1, conf_int_2,
        p_value, q_bh``; DeLong over the predictions of the folds that a patient was not
        trained in. The intervals hold the models fixed: they leave out what another
        training sample would change.
    minimum_cases, n_folds, n_prototypes, n_classes
        As fitted.
    """

    table: pd.DataFrame
    minimum_cases: int
    n_folds: int
    n_prototypes: int
    n_classes: int

    def sentence(self, *, level: float = 0.05) -> str:
        """What the comparison comes to."""
        if self.table.empty:
            return f"No phecode has the {self.minimum_cases} cases that prediction needs."
        is_clear = self.table["q_bh"] < level
        better = int((is_clear & (self.table["difference"] > 0)).sum())
        worse = int((is_clear & (self.table["difference"] < 0)).sum())
        return (
            f"Predicted from all {self.n_prototypes} prototypes, "
            f"{_phecodes(len(self.table))} have a median AUC of "
            f"{self.table['prototypes_auc'].median():.3f}, from all {self.n_classes} class "
            f"predictions {self.table['classes_auc'].median():.3f}; prototypes do better "
            f"in {better} and worse in {worse} (paired DeLong, Benjamini-Hochberg q < "
            f"{level:g}; penalised logistic regression, {self.n_folds} folds by patient)."
        )


def multivariable_prediction(
    prototypes: Float[np.ndarray, "patient prototype"],
    classes: Float[np.ndarray, "patient label"],
    status: PhecodeStatus,
    *,
    patient_ids: Sequence[str],
    rng: np.random.Generator,
    minimum_cases: int = 50,
    n_folds: int = 5,
    penalties: Sequence[float] = PENALTIES,
) -> MultivariablePrediction:
    """Predict each phecode by penalised logistic regression, cross-validated by patient.

    L2 penalty on exposures per SD of the training fold; its strength is chosen by the log
    loss of three inner folds of the training patients. Prototypes and classes see the same
    folds. A patient with a missing exposure is left out.

    Parameters
    ----------
    status
        Case status in the order of the rows. Phecodes with fewer than `minimum_cases` cases
        or controls are left out.
    patient_ids
        Whose row it is: all rows of a patient are in the same fold.
    rng
        Draws the folds.
    penalties
        See `PENALTIES`.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    complete = ~(np.isnan(prototypes).any(axis=1) | np.isnan(classes).any(axis=1))
    prototypes, classes = prototypes[complete], classes[complete]
    status = status.at_rows(np.flatnonzero(complete))
    patients = np.unique(np.asarray(patient_ids)[complete], return_inverse=True)[1]
    rows = []
    for p, phecode in enumerate(status.phecodes):
        column = status.column(p)
        kept = np.flatnonzero(column != CaseStatus.EXCLUDED)
        is_case = column[kept] == CaseStatus.CASE
        if min(is_case.sum(), (~is_case).sum()) < minimum_cases:
            continue
        seed = int(rng.integers(2**31))
        outer = StratifiedGroupKFold(n_folds, shuffle=True, random_state=seed)
        predicted = np.empty((2, len(kept)))
        for train, test in outer.split(kept[:, None], is_case, patients[kept]):
            inner = StratifiedGroupKFold(3, shuffle=True, random_state=seed)
            folds = list(
                inner.split(kept[train][:, None], is_case[train], patients[kept][train])
            )
            for k, exposures in enumerate((prototypes, classes)):
                x = exposures[kept]
                predicted[k, test] = _predict(
                    x[train], is_case[train], x[test], folds, penalties
                )
        rows.append({"phecode": phecode, **_compare(predicted.T, column[kept])})
    return MultivariablePrediction(
        _with_q(
            pd.DataFrame(rows, columns=pd.Index(["phecode", *_COMPARED])).rename(
                columns=lambda c: c.replace("first_", "prototypes_").replace(
                    "second_", "classes_"
                )
            )
        ),
        minimum_cases,
        n_folds,
        prototypes.shape[1],
        classes.shape[1],
    )


_COMPARED = (
    "cases",
    "controls",
    *(
        f"{k}_auc{c}"
        for k in ("first", "second")
        for c in ("", "_conf_int_1", "_conf_int_2")
    ),
    "difference",
    "conf_int_1",
    "conf_int_2",
    "p_value",
)


def _compare(
    pair: Float[np.ndarray, "patient 2"], column: np.ndarray
) -> Mapping[str, float | int]:
    """AUCs of two exposures and their paired difference, by the names of `_COMPARED`."""
    single = delong(pair, column)
    paired = delong_difference(pair[:, :1], pair[:, 1:], column)
    numbers = [
        int((column == CaseStatus.CASE).sum()),
        int((column == CaseStatus.CONTROL).sum()),
        *(
            float(array[k])
            for k in (0, 1)
            for array in (single.auc, single.low, single.high)
        ),
        float(paired.difference[0]),
        float(paired.low[0]),
        float(paired.high[0]),
        float(paired.p_value[0]),
    ]
    return dict(zip(_COMPARED, numbers, strict=True))


def _best(
    values: Float[np.ndarray, "patient exposure"],
    names: Sequence[str],
    kinds: Sequence[str],
    status: PhecodeStatus,
    associations: pd.DataFrame,
    choose: Bool[np.ndarray, " patient"],
    compare: Bool[np.ndarray, " patient"],
) -> BestPerPhecode:
    """Choose the best of each kind in some rows and compare them in some rows."""
    tested = set(associations.loc[associations["status"] == "tested", "phecode"])
    status = status.at_phecodes([p for p, c in enumerate(status.phecodes) if c in tested])
    of_kind = {
        kind: np.flatnonzero(np.asarray(kinds) == kind) for kind in dict.fromkeys(kinds)
    }
    prototypes = of_kind.pop("prototype", np.array([], dtype=int))
    tables = []
    for kind, others in of_kind.items() if len(prototypes) else ():
        columns = np.concatenate([prototypes, others])
        complete = ~np.isnan(values[:, columns]).any(axis=1)
        to_choose, to_compare = (np.flatnonzero(complete & r) for r in (choose, compare))
        auc = auc_all_pairs(
            values[np.ix_(to_choose, columns)].astype(np.float64), status.at_rows(to_choose)
        )
        seen = status.at_rows(to_compare)
        rows = []
        for p, phecode in enumerate(status.phecodes):
            if np.isnan(auc[:, p]).any():
                continue  # no case or no control to choose by
            far = np.abs(auc[:, p] - 0.5)
            first = int(np.argmax(far[: len(prototypes)]))
            second = len(prototypes) + int(np.argmax(far[len(prototypes) :]))
            sign = np.where(auc[[first, second], p] >= 0.5, 1, -1)
            pair = values[np.ix_(to_compare, columns[[first, second]])] * sign
            rows.append(
                {
                    "phecode": phecode,
                    "against_kind": kind,
                    "prototype": names[columns[first]],
                    "prototype_direction": "higher" if sign[0] > 0 else "lower",
                    "other": names[columns[second]],
                    "other_direction": "higher" if sign[1] > 0 else "lower",
                    "n_prototypes": len(prototypes),
                    "n_others": len(others),
                    **_compare(pair.astype(np.float64), seen.column(p)),
                }
            )
        tables.append(_with_q(pd.DataFrame(rows, columns=pd.Index([*_BEST, *_COMPARED]))))
    if not tables:
        tables = [
            _with_q(pd.DataFrame(columns=pd.Index([*_BEST, *_COMPARED]), dtype=float))
        ]
    table = pd.concat(tables, ignore_index=True).rename(
        columns=lambda c: c.replace("first_", "prototype_").replace("second_", "other_")
    )
    return BestPerPhecode(table, held_out=not (choose & compare).any())


_BEST = (
    "phecode",
    "against_kind",
    "prototype",
    "prototype_direction",
    "other",
    "other_direction",
    "n_prototypes",
    "n_others",
)


def _rows(table: pd.DataFrame, chosen: pd.Series | np.ndarray) -> pd.DataFrame:
    """The rows that are chosen."""
    return table.iloc[np.flatnonzero(chosen)]


def _with_q(table: pd.DataFrame) -> pd.DataFrame:
    """The table with Benjamini-Hochberg over its rows."""
    return table.assign(q_bh=benjamini_hochberg(table["p_value"].to_numpy(dtype=float)))


def _predict(
    train: Float[np.ndarray, "patient exposure"],
    is_case: Bool[np.ndarray, " patient"],
    test: Float[np.ndarray, "row exposure"],
    folds: Sequence[tuple[np.ndarray, np.ndarray]],
    penalties: Sequence[float],
) -> Float[np.ndarray, " row"]:
    """Log-odds of the test rows under the penalty that the folds of the training choose."""
    losses = np.zeros(len(penalties))
    for inner, outer in folds:
        for k, penalty in enumerate(penalties):
            logit = _fit(train[inner], is_case[inner], penalty, train[outer])
            losses[k] += np.logaddexp(0, np.where(is_case[outer], -logit, logit)).sum()
    return _fit(train, is_case, penalties[int(np.argmin(losses))], test)


def _fit(
    train: Float[np.ndarray, "patient exposure"],
    is_case: Bool[np.ndarray, " patient"],
    penalty: float,
    test: Float[np.ndarray, "row exposure"],
) -> Float[np.ndarray, " row"]:
    """Log-odds of the test rows from one penalised fit."""
    from sklearn.linear_model import LogisticRegression

    mean, sd = train.mean(axis=0), train.std(axis=0)
    sd[sd == 0] = 1  # an exposure that is constant in this fold says nothing in it
    model = LogisticRegression(C=penalty, solver="newton-cholesky")
    model.fit((train - mean) / sd, is_case)
    return model.decision_function((test - mean) / sd)


def _mean_cosine_distance(
    vectors: Sequence[Float[np.ndarray, " _feature"]], label: str
) -> float:
    """Mean of 1 - cosine over all pairs; NaN with fewer than two vectors."""
    if len({len(v) for v in vectors}) > 1:
        raise ValueError(f"prototypes of {label} differ in length")
    stacked = np.array(vectors, dtype=np.float64)
    norms = np.linalg.norm(stacked, axis=1)
    if (norms == 0).any():
        raise ValueError(f"a prototype of {label} is 0 throughout")
    if len(vectors) < 2:
        return np.nan
    unit = stacked / norms[:, None]
    first, second = np.triu_indices(len(unit), k=1)
    return float(1 - (unit @ unit.T)[first, second].mean())


def _p_larger(
    distance: Float[np.ndarray, " row"], is_mixed: Bool[np.ndarray, " row"]
) -> float:
    """One-sided Mann-Whitney p that mixed have the larger distance; NaN if undefined."""
    from scipy.stats import mannwhitneyu

    known = ~np.isnan(distance)
    mixed, uniform = distance[known & is_mixed], distance[known & ~is_mixed]
    if len(mixed) == 0 or len(uniform) == 0:
        return np.nan
    return float(mannwhitneyu(mixed, uniform, alternative="greater").pvalue)


def _phecodes(n: int) -> str:
    return "1 phecode" if n == 1 else f"{n} phecodes"
