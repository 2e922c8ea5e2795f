import numpy as np
import pytest

from phenokit.simulation.epileptor import Ramps, ictal_spans, run_epileptors


def constant(x0):
    """Nodes at these excitabilities from the start on."""
    x0 = np.array([x0], dtype=float)
    return Ramps(x0, x0, np.zeros(1), np.full(1, np.inf))


@pytest.fixture(scope="module")
def alone():
    """x1 of nodes without coupling or noise, two samples a unit."""
    x0 = [-1.6, -1.8, -2.1, -2.2]
    _, state = run_epileptors(
        constant(x0), np.zeros((4, 4)), rng=np.random.default_rng(0), n_samples=6_000,
        units_per_sample=0.5, noise=0.0,
    )  # fmt: skip
    return state[0]


@pytest.mark.parametrize(("node", "lasts", "period"), [(0, 1_015, 2_000), (1, 820, 2_060)])
def test_an_excitable_node_seizes_as_long_as_the_published_one(alone, node, lasts, period):
    # x1 oscillates in a seizure and is at rest in between: gaps of 100 units part seizures.
    ictal = np.flatnonzero(alone[node] > 0) / 2
    breaks = np.flatnonzero(np.diff(ictal) > 100)
    begins = np.concatenate([ictal[:1], ictal[breaks + 1]])
    ends = np.concatenate([ictal[breaks], ictal[-1:]])
    assert ends[0] - begins[0] == pytest.approx(lasts, rel=0.03)
    assert begins[1] - begins[0] == pytest.approx(period, rel=0.03)


def test_a_node_of_low_excitability_never_seizes(alone):
    assert (alone[2:] < 0).all()


def test_a_chain_is_recruited_in_order():
    chain = np.eye(6, k=1) + np.eye(6, k=-1)
    _, state = run_epileptors(
        constant([-1.6, *[-2.1] * 5]), chain, rng=np.random.default_rng(0),
        n_samples=4_600, units_per_sample=0.5, noise=0.0,
    )  # fmt: skip
    steps = np.diff(ictal_spans(state)[0, :, 0]) / 2
    assert (steps > 100).all()
    assert (steps < 370).all()


def test_without_a_raised_zone_nothing_happens_and_a_raised_one_calms_down():
    rest = np.full((2, 3), -2.2)
    raised = rest.copy()
    raised[1, 0] = -1.6
    ramps = Ramps(rest, raised, np.full(2, 10.0), np.full(2, 900.0))
    signal, state = run_epileptors(
        ramps, np.zeros((3, 3)), rng=np.random.default_rng(0), n_samples=2_400,
        units_per_sample=0.9,
    )  # fmt: skip
    spans = ictal_spans(state)
    assert np.isnan(spans[0]).all()
    assert np.isnan(spans[1, 1:]).all()
    begin, end = spans[1, 0]
    assert 0 < begin < end < 2_400
    assert signal[1, 0, int(begin) : int(end)].std() > 5 * signal[1, 1].std()
