"""The sampler: the density it sees, and the posteriors it finds."""

from dataclasses import replace

import numpy as np
import pytest

from phenokit.evidence import nuts
from phenokit.evidence.convergence import ess_bulk, r_hat
from phenokit.evidence.heckman import HeckmanModel
from phenokit.evidence.laplace import draw_weighted, fit_nested_laplace


@pytest.fixture(scope="module")
def rare(risk_reference):
    model = risk_reference.model_of(risk_reference.rare, "exper")
    return model, fit_nested_laplace(model)


def log_densities(model, fit, theta):
    """Ours of the coefficients, and the sampler's of its coordinates less the Jacobian."""
    coefficients, shape = nuts.unpack(model, fit, theta)
    found = model.evaluate(coefficients, shape)
    ours = model.log_density(coefficients, shape, found)
    density = nuts.log_density(model, fit)
    return ours, np.array([float(density(one)) for one in theta])


def test_the_sampled_density_is_ours_up_to_the_jacobian(rare):
    model, fit = rare
    rng = np.random.default_rng(2)
    theta = rng.normal(0, 1.5, (6, model.dimension + 1))
    theta[:, -1] = np.repeat([0.8, -3.0], 3)  # of one sigma each the Jacobian is the same
    ours, sampled = log_densities(model, fit, theta)
    for same in (slice(0, 3), slice(3, 6)):
        np.testing.assert_allclose(np.diff(ours[same]), np.diff(sampled[same]), atol=1e-7)


def test_the_jacobian_is_the_volume_of_the_coordinates(rare):
    model, fit = rare
    axes = np.eye(model.dimension + 1)
    extra, volume = [], []
    for sigma in (0.7, 2.2):
        origin = sigma * axes[-1:]
        moved = nuts.unpack(model, fit, origin + axes[:-1])[0]
        volume.append(np.linalg.slogdet(moved - nuts.unpack(model, fit, origin)[0])[1])
        ours, sampled = log_densities(model, fit, origin)
        extra.append(sampled[0] - ours[0])
    assert extra[1] - extra[0] == pytest.approx(volume[1] - volume[0], abs=1e-7)


@pytest.mark.parametrize("by_nodes", [True, False], ids=["nodes", "closed form"])
def test_value_and_gradient_are_finite_where_testing_follows_risk_alone(
    rare, by_nodes, monkeypatch
):
    import jax

    if not by_nodes:
        monkeypatch.setattr(nuts, "MOST_CELLS_BY_NODES", 0)
    model, fit = rare
    flat = replace(fit, modes=np.zeros_like(fit.modes))  # beta_Delta = 0 at eta = 0
    both = jax.jit(jax.value_and_grad(nuts.log_density(model, flat)))
    for sigma in (0.0, 1e-9, 0.01, 9.0):
        value, gradient = both(np.r_[np.zeros(model.dimension), sigma])
        assert np.isfinite(value)
        assert np.isfinite(gradient).all()


def test_a_short_run_agrees_with_the_nested_laplace_fit(rare):
    model, fit = rare
    chains = nuts.sample(model, fit, n_chains=2, n_warmup=300, n_draws=500, seed=3)
    assert chains.coefficients.shape == (2, 500, model.dimension)
    assert chains.divergent.sum() <= 2
    drawn = draw_weighted(model, fit, 4_000, np.random.default_rng(1))
    weights = drawn.smoothed.weights
    mean = weights @ drawn.coefficients
    sd = np.sqrt(weights @ (drawn.coefficients - mean) ** 2)
    for j in range(model.dimension):
        draws = chains.coefficients[:, :, j]
        error = 1 / np.sqrt(ess_bulk(draws)) + 1 / np.sqrt(2_000)
        assert abs(draws.mean() - mean[j]) < 5 * error * sd[j]
        assert r_hat(draws) < 1.03


@pytest.mark.slow
@pytest.mark.nightly
@pytest.mark.parametrize(
    ("name", "variant"),
    [("rare", "both"), ("rare", "exper"), ("published", "both"), ("published", "none")],
)
def test_posteriors_are_those_of_the_reference(name, variant, risk_reference):
    name = getattr(risk_reference, name)
    model = risk_reference.model_of(name, variant)
    fit = fit_nested_laplace(model, n_points=28)
    chains = nuts.sample(model, fit, n_draws=1_500, target_acceptance=0.95, seed=1)
    assert chains.divergent.mean() <= 0.001
    flat = chains.coefficients.reshape(-1, model.dimension)
    shape = chains.shape.reshape(-1)
    assert ess_bulk(chains.shape) > 1_000
    named = risk_reference.by_number(model, flat, shape, model.evaluate(flat, shape))
    weights = np.full(len(shape), 1 / len(shape))
    risk_reference.assert_reference(name, variant, named, weights)


@pytest.mark.slow
@pytest.mark.nightly
@pytest.mark.parametrize("kind", ["normal", "normal_alpha", "heckman"])
def test_other_members_of_the_family_agree_with_nested_laplace(kind, rare):
    if kind == "heckman":
        rng = np.random.default_rng(1)
        design = np.column_stack([np.ones(1_500), rng.normal(size=(1_500, 2))])
        z, u = rng.multivariate_normal([0, 0], [[4, 1], [1, 1]], 1_500).T
        tested = design @ [0.5, 0.7, 0.2] + u > 0
        outcome = np.where(tested, design @ [1, 0.8, 0.8] + z, 0.0)
        model = HeckmanModel(design, tested, outcome, (0, 1))
    else:
        model = replace(rare[0], kind=kind, weight=125_000.0)
    fit = fit_nested_laplace(model)
    drawn = draw_weighted(model, fit, 4_000, np.random.default_rng(1))
    options = {"n_chains": 1, "n_draws": 4_000} if kind == "normal" else {}
    chains = nuts.sample(model, fit, seed=2, **options)
    weights = drawn.smoothed.weights
    mean = np.r_[weights @ drawn.coefficients, weights @ drawn.shape]
    draws = np.concatenate([chains.coefficients, chains.shape[:, :, None]], axis=2)
    sd = draws.reshape(-1, len(mean)).std(axis=0)
    assert np.abs(draws.mean(axis=(0, 1)) - mean).max() < 1
    assert (np.abs(draws.mean(axis=(0, 1)) - mean) < 0.15 * sd).all()
