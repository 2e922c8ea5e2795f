import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from phenokit.cohort import PhecodeStatus
from phenokit.evidence.comparisons import (
    best_per_phecode,
    best_per_phecode_held_out,
    best_within_class,
    intra_class_distance,
    multivariable_prediction,
    specificity,
    split_patients,
)


def status_of(cases, excluded=None):
    """`PhecodeStatus` of boolean matrices (patient, phecode)."""
    excluded = np.zeros_like(cases) if excluded is None else excluded
    rows = [
        tuple(np.flatnonzero(c).astype(np.int32) for c in m.T) for m in (cases, excluded)
    ]
    names = tuple(f"4{p:02d}" for p in range(cases.shape[1]))
    return PhecodeStatus(names, len(cases), *rows)


def every_phecode(status):
    """A scan in which every phecode was tested."""
    return pd.DataFrame({"phecode": list(status.phecodes), "status": "tested"})


def scan(rows):
    """A scan's table from (exposure, kind, phecode, category, beta, corrected p)."""
    columns = ["exposure", "exposure_kind", "phecode", "phecode_category", "beta"]
    table = pd.DataFrame(rows, columns=pd.Index([*columns, "p_bonferroni"]))
    return table.assign(
        status=np.where(table["p_bonferroni"].isna(), "not_tested", "tested")
    )


def driven_by_one_prototype(rng, n=1500):
    """20 prototypes, of which the fourth drives the phecode; their mean is the class."""
    prototypes = rng.normal(size=(n, 20))
    chance = 1 / (1 + np.exp(2.2 + 1.2 * prototypes[:, 3]))  # the lower, the likelier
    cases = (rng.random(n) < chance)[:, None]
    values = np.concatenate([prototypes, prototypes.mean(1, keepdims=True)], axis=1)
    names = [*(f"prototype {k}" for k in range(20)), "class CD"]
    return values, names, ["prototype"] * 20 + ["class"], status_of(cases)


def test_best_per_phecode_finds_the_prototype_that_drives_it_and_its_direction():
    values, names, kinds, status = driven_by_one_prototype(np.random.default_rng(1))
    result = best_per_phecode(
        values, names, kinds, status, associations=every_phecode(status)
    )
    row = result.table.iloc[0]
    assert (row["prototype"], row["prototype_direction"]) == ("prototype 3", "lower")
    is_case = status.column(0) == 1
    assert row["prototype_auc"] == pytest.approx(roc_auc_score(is_case, -values[:, 3]))
    assert row["difference"] == pytest.approx(row["prototype_auc"] - row["other_auc"])
    assert row["conf_int_1"] > 0
    assert row["q_bh"] == row["p_value"] < 1e-6
    assert result.sentence().startswith("In 1 of 1 phecode the best prototype has a higher")
    assert "same patients" in result.sentence()


def test_best_per_phecode_held_out_chooses_and_compares_in_different_patients():
    values, names, kinds, status = driven_by_one_prototype(np.random.default_rng(1))
    ids = [f"p{k}" for k in range(len(values))]
    arguments = {"associations": every_phecode(status), "patient_ids": ids}
    results = [
        best_per_phecode_held_out(
            values, names, kinds, status, **arguments, rng=np.random.default_rng(2)
        )
        for _ in range(2)
    ]
    row = results[0].table.iloc[0]
    assert row["prototype"] == "prototype 3"
    assert abs(row["cases"] + row["controls"] - len(values) / 2) <= 1
    pd.testing.assert_frame_equal(results[0].table, results[1].table)
    assert "compared on the other" in results[0].sentence()


def test_best_per_phecode_held_out_does_not_favour_the_kind_with_more_tries():
    # 60 prototypes and one class, none of which has to do with any of 40 phecodes.
    rng = np.random.default_rng(3)
    values = rng.normal(size=(600, 61))
    kinds = ["prototype"] * 60 + ["class"]
    names = [str(k) for k in range(61)]
    status = status_of(rng.random((600, 40)) < 0.1)
    arguments = (values, names, kinds, status)
    naive = best_per_phecode(*arguments, associations=every_phecode(status)).table
    ids = [str(k // 2) for k in range(600)]
    honest = best_per_phecode_held_out(
        *arguments, associations=every_phecode(status), patient_ids=ids, rng=rng
    ).table
    assert naive["difference"].mean() > 0.04
    assert (naive["difference"] > 0).mean() > 0.8
    # Mean of 40 differences, not independent of another as they share the exposures.
    assert abs(honest["difference"].mean()) < 0.03
    assert (honest["p_value"] < 0.05).mean() <= 0.15


def test_best_per_phecode_held_out_keeps_the_rows_of_a_patient_in_one_half():
    # Rows come in pairs of a patient with one value; the halves share no value if whole.
    rng = np.random.default_rng(4)
    values = np.repeat(rng.normal(size=(300, 2)), 2, axis=0)
    status = status_of(np.repeat(rng.random((300, 1)) < 0.3, 2, axis=0))
    ids = np.repeat([f"p{k}" for k in range(300)], 2).tolist()
    result = best_per_phecode_held_out(
        values, ["a", "b"], ["prototype", "class"], status,
        associations=every_phecode(status), patient_ids=ids, rng=rng,
    )  # fmt: skip
    row = result.table.iloc[0]
    assert row["cases"] % 2 == row["controls"] % 2 == 0
    assert row["cases"] + row["controls"] == 300


def test_best_per_phecode_leaves_out_missing_values_of_the_kinds_it_compares():
    rng = np.random.default_rng(5)
    values = rng.normal(size=(200, 3))
    values[:50, 2] = np.nan
    status = status_of(rng.random((200, 2)) < 0.2)
    associations = every_phecode(status)
    associations.loc[1, "status"] = "not_tested"
    table = best_per_phecode(
        values, ["a", "b", "c"], ["prototype", "class", "feature"], status,
        associations=associations,
    ).table  # fmt: skip
    n = table["cases"] + table["controls"]
    assert dict(zip(table["against_kind"], n, strict=True)) == {
        "class": 200,
        "feature": 150,
    }
    assert set(table["phecode"]) == {"400"}


def test_best_per_phecode_says_when_there_is_nothing_to_compare():
    status = status_of(np.array([[True], [False], [False]]))
    values = np.arange(6.0).reshape(3, 2)
    result = best_per_phecode(
        values, ["a", "b"], ["class", "feature"], status, associations=every_phecode(status)
    )
    assert len(result.table) == 0
    assert "No phecode allows" in result.sentence()


def test_specificity_counts_the_categories_of_significant_phecodes():
    result = specificity(
        scan(
            [
                ("p0", "prototype", "401", "circulatory", 1.0, 0.001),
                ("p0", "prototype", "427", "circulatory", 1.0, 0.01),
                ("p0", "prototype", "250", "endocrine", 1.0, 0.2),
                ("c", "class", "401", "circulatory", 1.0, 0.001),
                ("c", "class", "250", "endocrine", -1.0, 0.04),
                ("c", "class", "585", "genitourinary", 1.0, np.nan),
                ("p1", "prototype", "401", "circulatory", 1.0, 0.9),
            ]
        )
    )
    rows = result.table.set_index("exposure")
    assert rows["n_tested"].to_dict() == {"p0": 3, "c": 2, "p1": 1}
    assert rows["n_phecodes"].to_dict() == {"p0": 2, "c": 2, "p1": 0}
    assert rows["n_categories"].to_dict() == {"p0": 1, "c": 2, "p1": 0}
    assert rows.loc["c", "categories"] == "circulatory; endocrine"
    assert "median of 1 phecode categories (1 prototypes), a class prediction in 2 (1)" in (
        result.sentence()
    )


DISTANCES = {
    # label: vectors, and their mean pairwise cosine distance by hand
    "mixed": ([[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0]], (1 + 2 + 1) / 3),
    "uniform": ([[1.0, 1.0], [2.0, 2.0]], 0.0),
    "opposed": ([[1.0, 0.0], [0.0, 1.0]], 1.0),
    "alone": ([[5.0, 1.0]], np.nan),
}


def distances():
    vectors, labels = [], []
    for label, (own, _) in DISTANCES.items():
        vectors += [np.array(v) for v in own]
        labels += [label] * len(own)
    names = [f"prototype {k}" for k in range(len(labels))]
    effects = {  # exposure: (beta, corrected p) for phecodes 401 and 250
        0: [(1, 0.01), (1, 0.9)], 1: [(1, 0.9), (1, 0.9)], 2: [(1, 0.02), (1, 0.9)],
        3: [(1, 0.01), (1, 0.9)], 4: [(2, 0.01), (1, 0.9)],
        5: [(1, 0.01), (1, 0.9)], 6: [(-1, 0.01), (1, np.nan)],
        7: [(1, 0.01), (1, 0.9)],
    }  # fmt: skip
    rows = [
        (names[k], "prototype", phecode, "x", beta, p)
        for k, pairs in effects.items()
        for phecode, (beta, p) in zip(("401", "250"), pairs, strict=True)
    ]
    return vectors, labels, names, scan(rows)


def test_intra_class_distance_equals_the_value_by_hand():
    vectors, labels, names, associations = distances()
    result = intra_class_distance(vectors, labels, names, associations=associations)
    rows = result.table.set_index("label")
    for label, (_, distance) in DISTANCES.items():
        assert rows.loc[label, "distance"] == pytest.approx(distance, nan_ok=True)
    assert rows["is_mixed"].to_dict() == {
        "mixed": True, "uniform": False, "opposed": True, "alone": False,
    }  # fmt: skip
    assert rows["n_phecodes"].to_dict() == {
        "mixed": 2, "uniform": 2, "opposed": 1, "alone": 0,
    }  # fmt: skip
    # {4/3, 1} against {0}: the largest two of three, 1 in 3 orders
    assert result.p_value == pytest.approx(1 / 3)
    assert "2 classes with mixed significance are a median cosine distance of 1.167" in (
        result.sentence()
    )


def test_intra_class_distance_finds_no_difference_where_all_classes_are_alike():
    vectors, labels, names, associations = distances()
    associations["p_bonferroni"] = 0.9
    result = intra_class_distance(vectors, labels, names, associations=associations)
    assert np.isnan(result.p_value)
    assert result.sentence() == "All 3 classes are uniform: there is nothing to compare."


def test_intra_class_distance_refuses_vectors_without_a_direction():
    vectors, labels, names, associations = distances()
    with pytest.raises(ValueError, match="alone is 0 throughout"):
        intra_class_distance(
            [*vectors[:-1], np.zeros(2)], labels, names, associations=associations
        )
    with pytest.raises(ValueError, match="mixed differ in length"):
        intra_class_distance(
            [np.ones(3), *vectors[1:]], labels, names, associations=associations
        )


def predicted(rng, n=800):
    """Two prototypes drive the phecode, one up and one down; the class is their mean."""
    prototypes = rng.normal(size=(n, 6))
    classes = prototypes[:, :3].mean(axis=1, keepdims=True)
    logit = -2.2 + 1.2 * prototypes[:, 0] - 1.2 * prototypes[:, 1]
    cases = rng.random((n, 1)) < 1 / (1 + np.exp(-logit[:, None]))
    return (
        prototypes,
        classes,
        status_of(np.concatenate([cases, rng.random((n, 1)) < 0.02], 1)),
    )


def test_multivariable_prediction_sees_what_the_class_averages_away():
    rng = np.random.default_rng(6)
    prototypes, classes, status = predicted(rng)
    ids = [str(k) for k in range(len(prototypes))]
    result = multivariable_prediction(prototypes, classes, status, patient_ids=ids, rng=rng)
    assert result.table["phecode"].tolist() == ["400"]  # the other has some 16 cases
    row = result.table.iloc[0]
    assert row["prototypes_auc"] > 0.75
    assert 0.4 < row["classes_auc"] < 0.6
    assert row["conf_int_1"] > 0.1
    assert "prototypes do better in 1 and worse in 0" in result.sentence()


def test_multivariable_prediction_is_at_chance_without_a_signal():
    # In-sample, 40 prototypes of noise reach an AUC of about .75 here. Standard error of
    # an AUC with 60 cases: .04; 4 of them.
    rng = np.random.default_rng(7)
    prototypes, classes = rng.normal(size=(400, 40)), rng.normal(size=(400, 2))
    cases = np.arange(400)[:, None] < 60
    result = multivariable_prediction(
        prototypes,
        classes,
        status_of(cases),
        patient_ids=[str(k) for k in range(400)],
        rng=rng,
    )
    assert abs(result.table["prototypes_auc"].iloc[0] - 0.5) < 0.16


def test_multivariable_prediction_keeps_a_patient_in_one_fold():
    # Every patient has four recordings with a noise of his own as exposures: whoever has
    # seen the patient knows the answer, whoever has not is at chance.
    rng = np.random.default_rng(8)
    own = np.repeat(rng.normal(size=(120, 100)), 4, axis=0)
    cases = np.repeat(np.arange(120) < 40, 4)[:, None]
    together, apart = (
        multivariable_prediction(
            own, own[:, :2], status_of(cases), patient_ids=ids, rng=rng, penalties=(1.0,)
        ).table["prototypes_auc"].iloc[0]
        for ids in (
            np.repeat([f"p{k}" for k in range(120)], 4).tolist(),
            [f"row {k}" for k in range(480)],
        )
    )  # fmt: skip
    assert apart > 0.95
    assert together < 0.7


def test_multivariable_prediction_does_not_see_the_scale_of_an_exposure():
    prototypes, classes, status = predicted(np.random.default_rng(9), n=500)
    ids = [str(k) for k in range(500)]
    scales = np.array([1e-6, 1e6, 1, 1, 1, 1])
    one, other = (
        multivariable_prediction(
            x, classes, status, patient_ids=ids, rng=np.random.default_rng(1)
        ).table["prototypes_auc"].iloc[0]
        for x in (prototypes, prototypes * scales)
    )  # fmt: skip
    assert one == pytest.approx(other, abs=1e-6)


def test_a_class_is_compared_with_its_own_best_prototype_only():
    rng = np.random.default_rng(4)
    case = rng.random(600) < 0.3
    strong, weak = case + rng.normal(size=600), 0.2 * case + rng.normal(size=600)
    other = 3 * case + rng.normal(size=600)
    values = np.column_stack([strong, rng.normal(size=600), weak, other])
    found = best_within_class(
        values,
        ["prototype 0", "prototype 1", "class A", "prototype 2"],
        ["prototype", "prototype", "class", "prototype"],
        ["A", "A", "A", "B"],
        PhecodeStatus(("001",), 600, (np.flatnonzero(case),), (np.zeros(0, int),)),
        associations=pd.DataFrame(
            {"exposure": ["prototype 0"], "phecode": ["001"], "p_bonferroni": [1e-9],
             "status": ["tested"]}
        ),
    )  # fmt: skip
    row = found.table.iloc[0]
    assert len(found.table) == 1
    assert (row["label"], row["prototype"], row["other"]) == ("A", "prototype 0", "class A")
    assert row["difference"] == pytest.approx(row["prototype_auc"] - row["other_auc"])
    assert "higher AUC than the prediction of the class in 1" in found.sentence()


def test_a_split_keeps_the_rows_of_a_patient_together():
    people = [str(k // 3) for k in range(300)]
    first, second = split_patients(people, np.random.default_rng(0))
    assert (first ^ second).all()
    assert first.sum() == 150
    assert all(len(set(first[k : k + 3])) == 1 for k in range(0, 300, 3))
