import numpy as np
import pytest
from scipy import stats

from phenokit.evidence.multiplicity import (
    benjamini_hochberg,
    bonferroni,
    neg_log10_p_of_chi2,
    neg_log10_p_of_z,
)

NAN = float("nan")


@pytest.mark.parametrize(
    ("p", "q"),
    [
        ([0.001, 0.008, 0.039, 0.041, 0.60], [0.005, 0.02, 0.05125, 0.05125, 0.60]),
        ([0.005, 0.009, 0.02, 0.02, 0.5], [0.0225, 0.0225, 0.025, 0.025, 0.5]),
        ([0.01, 0.02, 0.03, 0.04, 0.05], [0.05] * 5),
        ([0.041, 0.60, 0.001, 0.039, 0.008], [0.05125, 0.60, 0.005, 0.05125, 0.02]),
        ([0.01, NAN, 0.04], [0.02, NAN, 0.04]),
        ([0.03], [0.03]),
        ([NAN, NAN], [NAN, NAN]),
        ([], []),
    ],
)
def test_benjamini_hochberg_equals_the_table_by_hand(p, q):
    ours = benjamini_hochberg(np.array(p, dtype=float))
    np.testing.assert_allclose(ours, q, rtol=1e-15)


@pytest.mark.parametrize(
    ("p", "corrected"),
    [
        ([0.001, 0.008, 0.039, 0.041, 0.60], [0.005, 0.04, 0.195, 0.205, 1.0]),
        ([0.01, NAN, 0.04], [0.02, NAN, 0.08]),
        ([0.03], [0.03]),
    ],
)
def test_bonferroni_equals_the_table_by_hand(p, corrected):
    np.testing.assert_allclose(bonferroni(np.array(p)), corrected, rtol=1e-15)


def test_benjamini_hochberg_agrees_with_scipy():
    p = np.random.default_rng(1).beta(0.3, 1, size=500).round(3)
    np.testing.assert_allclose(
        benjamini_hochberg(p), stats.false_discovery_control(p), rtol=1e-14
    )


@pytest.mark.parametrize("correct", [bonferroni, benjamini_hochberg])
@pytest.mark.parametrize("wrong", [-0.01, 1.01])
def test_corrections_refuse_what_is_not_a_p_value(correct, wrong):
    with pytest.raises(ValueError, match="not between 0 and 1"):
        correct(np.array([0.5, wrong]))


def test_neg_log10_p_agrees_with_the_plain_formula_where_that_is_finite():
    z = np.linspace(-37, 37, 149)
    plain = -np.log10(2 * stats.norm.sf(np.abs(z)))
    np.testing.assert_allclose(neg_log10_p_of_z(z), plain, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(neg_log10_p_of_chi2(z**2), plain, rtol=1e-12, atol=1e-15)


def test_neg_log10_p_stays_finite_and_right_beyond_10_000():
    # Tail by its asymptotic series in exact decimals: phi(z)/z (1 - 1/z^2 + 3/z^4).
    z = 250.0
    series = np.log1p(-1 / z**2 + 3 / z**4) - np.log(z) - 0.5 * np.log(2 * np.pi)
    by_hand = (z**2 / 2 - series - np.log(2)) / np.log(10)
    assert by_hand > 13_000
    np.testing.assert_allclose(neg_log10_p_of_z(np.array([z, -z])), by_hand, rtol=1e-14)
    np.testing.assert_allclose(neg_log10_p_of_chi2(np.array([z**2])), by_hand, rtol=1e-14)


def test_neg_log10_p_keeps_nan_and_refuses_a_negative_chi_square():
    assert np.isnan(neg_log10_p_of_z(np.array([NAN]))).all()
    with pytest.raises(ValueError, match="negative"):
        neg_log10_p_of_chi2(np.array([1.0, -0.1]))
