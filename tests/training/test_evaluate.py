from pathlib import Path

import numpy as np
import pytest
from scipy.stats import mannwhitneyu, norm
from sklearn.metrics import average_precision_score, roc_auc_score

from phenokit.training.evaluate import (
    auprc,
    auroc,
    calibration_slope,
    evaluate_scores,
    macro_auroc,
    micro_f1,
    micro_fmax,
    paired_macro_difference,
    patient_resamples,
)

REFERENCE = Path(__file__).parents[1] / "reference/ecg"


def cohort(n=300, n_labels=3, strength=1.0, seed=0):
    rng = np.random.default_rng(seed)
    labels = (rng.random((n, n_labels)) < 0.3).astype(float)
    logit = strength * labels + rng.normal(size=labels.shape)
    return labels, 1 / (1 + np.exp(-logit))


def test_reference_metrics():
    with np.load(REFERENCE / "multilabel_metrics.npz") as r:
        y, p = r["y"].astype(float), r["p"]
        each = np.array([auroc(y[:, k], p[:, k]) for k in range(7)])
        valid, n = ~np.isnan(each), y.sum(0)
        np.testing.assert_allclose(each, r["expected_auc_per_class"])
        assert macro_auroc(y, p) == pytest.approx(float(r["expected_macro_auc_valid"]))
        weighted = np.average(each[valid], weights=n[valid])
        assert weighted == pytest.approx(float(r["expected_weighted_auc"]))
        assert micro_f1(y, p >= 0.5) == pytest.approx(float(r["expected_micro_f1_at_0p5"]))
        fmax, threshold = micro_fmax(y, p)
        assert fmax == pytest.approx(float(r["expected_fmax_micro"]))
        assert threshold == pytest.approx(float(r["expected_fmax_threshold"]))
        batches = float(r["reference_style_batchmean_auc_bs32"])
        assert abs(macro_auroc(y, p) - batches) > 0.02  # the mean of batches is not one


def test_reference_auroc_is_u_over_the_pairs():
    with np.load(REFERENCE / "phenotype_stats.npz") as r:
        y, similarity = r["y"].astype(float), r["similarity"]
        ours = np.array([auroc(y, s) for s in similarity.T])
        pairs = y.sum() * (1 - y).sum()
        np.testing.assert_allclose(ours, r["expected_auc"], rtol=1e-12)
        np.testing.assert_allclose(ours * pairs, r["expected_mannwhitney_U"], rtol=1e-12)
        u = mannwhitneyu(similarity[y == 1, 0], similarity[y == 0, 0]).statistic
        assert ours[0] * pairs == pytest.approx(u)


@pytest.mark.parametrize("seed", range(4))
def test_areas_agree_with_scikit_learn_where_scores_tie(seed):
    rng = np.random.default_rng(seed)
    score = np.round(rng.random(80), 1)
    labels = (rng.random(80) < score).astype(float)
    assert auroc(labels, score) == pytest.approx(roc_auc_score(labels, score), abs=1e-12)
    expected = average_precision_score(labels, score)
    assert auprc(labels, score) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("labels", [[0.0, 0.0], [1.0, 1.0], []])
def test_one_outcome_has_no_auroc(labels):
    assert np.isnan(auroc(np.array(labels), np.linspace(0, 1, len(labels))))


def test_auroc_depends_on_the_order_only():
    labels, p = cohort()
    assert auroc(labels[:, 0], p[:, 0]) == auroc(labels[:, 0], np.log(p[:, 0]))
    flipped = auroc(1 - labels[:, 0], p[:, 0])
    assert auroc(labels[:, 0], p[:, 0]) + flipped == pytest.approx(1)


def test_a_resample_is_what_evaluating_its_records_gives():
    labels, p = cohort(60, 1)
    rng = np.random.default_rng(3)
    metrics = evaluate_scores(
        labels, p, ("A",), [None] * 60, rng=np.random.default_rng(3), n_resamples=200
    )
    draws = []
    for times in patient_resamples([None] * 60, rng=rng, n_resamples=200):
        rows = np.repeat(np.arange(60), times)
        draws.append(roc_auc_score(labels[rows, 0], p[rows, 0]))
    low, high = np.quantile(draws, [0.025, 0.975])
    assert metrics.labels[0].auroc.low == pytest.approx(low)
    assert metrics.labels[0].auroc.high == pytest.approx(high)


def test_the_records_of_a_patient_are_drawn_together():
    patients = ["a", "a", None, "b", "a", None]
    times = patient_resamples(patients, rng=np.random.default_rng(0), n_resamples=50)
    assert (times[:, 0] == times[:, 1]).all()
    assert (times[:, 0] == times[:, 4]).all()
    assert (times[:, [0, 2, 3, 5]].sum(1) == 4).all()
    assert (times[:, 2] != times[:, 5]).any()


def delong_variance(labels, score):
    """Variance of the AUROC by its placements (DeLong et al. 1988)."""
    above = score[labels == 1][:, None] > score[labels == 0][None]
    return (
        above.mean(1).var(ddof=1) / above.shape[0]
        + above.mean(0).var(ddof=1) / (above.shape[1])
    )


def test_the_interval_is_as_wide_as_delongs():
    labels, p = cohort(800, 1)
    metrics = evaluate_scores(
        labels, p, ("A",), [None] * 800, rng=np.random.default_rng(1), n_resamples=2000
    )
    ours = metrics.labels[0].auroc
    width = 2 * norm.ppf(0.975) * delong_variance(labels[:, 0], p[:, 0]) ** 0.5
    # the quantiles of 2,000 draws wobble by 4 % of the width
    assert ours.high - ours.low == pytest.approx(width, rel=0.15)


def test_the_interval_covers_the_truth_as_often_as_it_says():
    truth = norm.cdf(1 / 2**0.5)  # P(case scores above control), one SD apart
    hits = 0
    for seed in range(60):
        labels, p = cohort(150, 1, seed=100 + seed)
        interval = (
            evaluate_scores(
                labels,
                p,
                ("A",),
                [None] * 150,
                rng=np.random.default_rng(seed),
                n_resamples=200,
            )
            .labels[0]
            .auroc
        )
        hits += interval.low <= truth <= interval.high
    # 57 of 60 expected; fewer than 51 has a chance of 0.5 %
    assert hits >= 51


def test_repeated_patients_widen_the_interval():
    labels, p = cohort(100, 1)
    labels, p = np.repeat(labels, 4, axis=0), np.repeat(p, 4, axis=0)
    widths = []
    for patients in ([None] * 400, [f"p{i // 4}" for i in range(400)]):
        interval = (
            evaluate_scores(
                labels, p, ("A",), patients, rng=np.random.default_rng(5), n_resamples=500
            )
            .labels[0]
            .auroc
        )
        widths.append(interval.high - interval.low)
    assert widths[1] == pytest.approx(2 * widths[0], rel=0.25)


def test_macro_leaves_out_labels_without_both_outcomes_and_says_so():
    labels, p = cohort(100, 4)
    labels[:, 1] = 0
    labels[:, 2] = np.nan
    metrics = evaluate_scores(
        labels, p, ("A", "B", "C", "D"), [None] * 100, rng=np.random.default_rng(0)
    )
    assert metrics.macro_labels == ("A", "D")
    mean = (auroc(labels[:, 0], p[:, 0]) + auroc(labels[:, 3], p[:, 3])) / 2
    assert metrics.macro_auroc.value == pytest.approx(mean)
    assert np.isnan(metrics.labels[1].auroc.value)


def test_unknown_records_count_for_no_label():
    labels, p = cohort(100, 2)
    labels[:40, 0] = np.nan
    metrics = evaluate_scores(
        labels, p, ("A", "B"), [None] * 100, rng=np.random.default_rng(0), n_resamples=50
    )
    first = metrics.labels[0]
    assert (first.n, metrics.labels[1].n, metrics.n_records) == (60, 100, 100)
    assert first.auroc.value == auroc(labels[40:, 0], p[40:, 0])
    assert first.brier == pytest.approx(np.mean((p[40:, 0] - labels[40:, 0]) ** 2))


def test_micro_f1_over_known_pairs_by_hand():
    labels = np.array([[1.0, 0.0], [np.nan, 1.0]])
    present = np.array([[True, True], [True, False]])
    assert micro_f1(labels, present) == pytest.approx(2 * 1 / (2 + 2))


def test_a_model_against_itself_differs_by_nothing():
    labels, p = cohort()
    difference = paired_macro_difference(
        labels, p, p, [None] * 300, rng=np.random.default_rng(0), n_resamples=100
    )
    assert (difference.value, difference.low, difference.high) == (0, 0, 0)


def test_a_paired_difference_is_narrower_than_two_intervals():
    labels, p = cohort(300, 2)
    rng = np.random.default_rng(9)
    better = p + 0.2 * labels * rng.random(labels.shape)
    paired = paired_macro_difference(
        labels, better, p, [None] * 300, rng=np.random.default_rng(0), n_resamples=400
    )
    expected = macro_auroc(labels, better) - macro_auroc(labels, p)
    assert paired.value == pytest.approx(expected)
    alone = evaluate_scores(
        labels, p, ("A", "B"), [None] * 300, rng=np.random.default_rng(0), n_resamples=400
    ).macro_auroc
    assert paired.low > 0
    assert paired.high - paired.low < alone.high - alone.low


def test_several_seeds_are_averaged():
    labels, p = cohort(200, 2)
    other = cohort(200, 2, seed=0)[1] ** 2 * np.random.default_rng(4).random((200, 2))
    both = paired_macro_difference(
        labels,
        np.concatenate([p, other]),
        np.concatenate([other, other]),
        [None] * 200,
        rng=np.random.default_rng(0),
        n_resamples=50,
    )
    expected = (macro_auroc(labels, p) - macro_auroc(labels, other)) / 2
    assert both.value == pytest.approx(expected)


@pytest.mark.parametrize("factor", [0.5, 1.0, 2.0])
def test_the_calibration_slope_undoes_a_stretch_of_the_log_odds(factor):
    rng = np.random.default_rng(6)
    log_odds = rng.normal(0, 1.5, 5000)
    labels = (rng.random(5000) < 1 / (1 + np.exp(-log_odds))).astype(float)
    stretched = 1 / (1 + np.exp(-factor * log_odds))
    # the standard error of a slope of 1 is 0.03 here
    assert factor * calibration_slope(labels, stretched) == pytest.approx(1, abs=0.12)


def test_too_few_cases_have_no_calibration_slope():
    labels = np.zeros(50)
    labels[:9] = 1
    assert np.isnan(calibration_slope(labels, np.linspace(0.1, 0.9, 50)))


def test_sensitivity_and_specificity_are_those_at_the_threshold_of_each_label():
    labels = np.array([[1.0, 0], [1, 0], [1, np.nan], [0, 0], [0, 0]])
    score = np.array([[0.9, 0.1], [0.4, 0.2], [0.2, 0.9], [0.3, 0.3], [0.6, 0.4]])
    metrics = evaluate_scores(
        labels, score, ["a", "b"], [None] * 5, rng=np.random.default_rng(0),
        threshold=np.array([0.4, 0.3]), n_resamples=20,
    )  # fmt: skip
    a, b = metrics.labels
    assert (a.sensitivity.value, a.specificity.value) == (2 / 3, 1 / 2)
    # Wilson's interval of 2 in 3 and of 2 in 4.
    assert a.sensitivity.low == pytest.approx(0.20766, abs=1e-5)
    assert b.specificity.high == pytest.approx(0.84996, abs=1e-5)
    assert np.isnan(b.sensitivity.value)  # nobody has it
