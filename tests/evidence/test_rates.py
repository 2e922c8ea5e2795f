import numpy as np
import pytest
from statsmodels.stats.contingency_tables import Table2x2
from statsmodels.stats.proportion import proportion_confint

from phenokit.evidence.rates import ratio_interval, wilson_interval


def test_wilsons_interval_agrees_with_statsmodels():
    cases, n = np.array([0, 1, 7, 50, 50]), np.array([12, 40, 9, 50, 1_000])
    expected = np.array(proportion_confint(cases, n, method="wilson"))
    np.testing.assert_allclose(wilson_interval(cases, n), expected, atol=1e-14)


def test_nobody_has_no_rate():
    assert np.isnan(wilson_interval(np.array([0]), np.array([0]))).all()
    assert np.isnan(ratio_interval((0, 3), (10, 10))).all()
    assert np.isnan(ratio_interval((0, 3), (0, 10))).all()


def test_the_interval_of_a_ratio_agrees_with_statsmodels():
    table = Table2x2(np.array([[30, 70], [12, 108]]))
    expected = (table.riskratio, *table.riskratio_confint())
    assert ratio_interval((30, 12), (100, 120)) == pytest.approx(expected, rel=1e-12)
