from pathlib import Path

import numpy as np
import pytest
import torch

from phenokit.networks.prototype import (
    BoundedTrunk,
    PrototypeNetwork,
    ResNet1d,
    TorchForward,
    branch_classifier_weight,
    ceiling,
    compact,
    distance_similarity,
    full_precision,
    pool_windows,
    prototype_label_identity,
    published,
    window_bounds,
    window_distance,
    window_similarity,
)
from phenokit.statements import SCP_STATEMENTS, Branch

REFERENCE = Path(__file__).parents[1] / "reference/ecg"
BRANCHES: tuple[Branch, ...] = ("rhythm", "morphology", "global")
LABELS = tuple(s.code for s in SCP_STATEMENTS)
BRANCH_LABELS: dict[Branch, tuple[str, ...]] = {
    branch: tuple(s.code for s in SCP_STATEMENTS if s.branch == branch)
    for branch in BRANCHES
}


def reference(name):
    with np.load(REFERENCE / f"{name}.npz") as arrays:
        return {key: torch.from_numpy(arrays[key]) for key in arrays}


def close(ours, expected, atol=1e-5):
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=atol, check_dtype=False)


@pytest.fixture(scope="module")
def paper():
    """The network of the paper, without memory for its weights."""
    with torch.device("meta"):
        return PrototypeNetwork(published(BRANCH_LABELS, LABELS))


def count(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("branch", "backbone", "prototypes", "classifier"),
    [
        ("rhythm", 3_848_832, 40_960, 1_280),
        ("morphology", 11_172_480, 1_437_696, 48_672),
        ("global", 11_172_480, 344_064, 63),
    ],
)
def test_published_branches_have_the_published_sizes(
    paper, branch, backbone, prototypes, classifier
):
    assert count(paper.trunks[branch]) == backbone
    assert count(paper.add_ons[branch]) == 525_312
    assert paper.prototypes[branch].numel() == prototypes
    assert count(paper.classifiers[branch]) == classifier


def test_published_head_sees_1037_prototypes_and_the_network_has_119_mb(paper):
    assert paper.n_prototypes == 1037
    assert count(paper.fusion) == 1037 * 71 + 71
    size = sum(4 * t.numel() for t in paper.state_dict().values() if t.is_floating_point())
    assert size / 1e6 == pytest.approx(119, abs=1)


def test_the_published_branches_hold_16_52_and_3_labels():
    assert [len(BRANCH_LABELS[b]) for b in BRANCHES] == [16, 52, 3]
    assert sorted(sum(BRANCH_LABELS.values(), ())) == sorted(LABELS)


def test_shared_trunks_and_one_dimension_make_ours_fifteen_times_smaller(paper):
    per_label: dict[Branch, int] = {"rhythm": 5, "morphology": 18, "global": 7}
    with torch.device("meta"):
        ours = PrototypeNetwork(compact(BRANCH_LABELS, LABELS, per_label=per_label))
    assert ours.n_prototypes == paper.n_prototypes
    assert count(ours.trunks) * 15 < count(paper.trunks)


@pytest.mark.parametrize("trunk", [ResNet1d, BoundedTrunk])
def test_every_trunk_halves_time_five_times(trunk):
    assert trunk((4, 4, 4, 4)).eval()(torch.zeros(1, 12, 1000)).shape == (1, 4, 32)


def test_reference_similarity_of_whole_recordings():
    r = reference("sim1d_global")
    similarity = window_similarity(
        r["features"][..., None], r["prototype_vectors"][..., None], reference=True
    )
    close(similarity[..., 0], r["expected_similarity"])
    assert similarity[1, 5] == pytest.approx(1)


def test_reference_similarity_of_every_window():
    r = reference("sim2d_partial_T3")
    features, prototypes = r["features"][:, :, 0], r["prototype_vectors"][:, :, 0]
    similarity = window_similarity(features, prototypes, reference=True)
    close(similarity, r["expected_activations"])
    close(pool_windows(similarity, "mean"), r["expected_forward_similarity_mean"])
    close(pool_windows(similarity, "topk", k=5), r["expected_top5_mean_unused_path"])
    close(pool_windows(similarity, "max"), r["expected_activations"].amax(-1))
    assert ceiling(512, 3) == r["scale"] == r["input_vector_length"] / 3
    assert similarity[0, 5].argmax() == 7
    assert similarity[0, 5, 7] == pytest.approx(13)


def test_reference_distance_of_whole_recordings():
    r = reference("sim1d_global")
    distance = window_distance(r["features"][..., None], r["prototype_vectors"][..., None])
    close(distance[..., 0], r["expected_l2"], atol=5e-5)
    close(distance_similarity(distance)[..., 0], r["expected_l2_log"])


def test_reference_distance_of_every_window():
    r = reference("sim2d_partial_T3")
    distance = window_distance(r["features"][:, :, 0], r["prototype_vectors"][:, :, 0])
    close(distance, r["expected_l2_distances"], atol=1e-4)
    assert distance[0, 5, 7] == 0
    best = pool_windows(distance_similarity(distance), "topk", k=5)
    close(best, r["expected_l2_log_similarity_top5"])


def test_similarity_is_the_cosine_of_each_window():
    generator = torch.Generator().manual_seed(3)
    z = torch.randn(2, 5, 9, generator=generator)
    p = torch.randn(4, 5, 3, generator=generator)
    ours = window_similarity(z, p)
    for window in range(7):
        patch = z[:, None, :, window : window + 3].flatten(2)
        expected = torch.cosine_similarity(patch, p.flatten(1)[None], dim=-1)
        close(ours[..., window], expected)


@pytest.mark.parametrize("factor", [0.01, 3.0, 1e4])
def test_similarity_does_not_depend_on_scale(factor):
    generator = torch.Generator().manual_seed(4)
    z = torch.randn(2, 5, 9, generator=generator)
    p = torch.randn(4, 5, 3, generator=generator)
    close(window_similarity(factor * z, p), window_similarity(z, p))
    close(window_similarity(z, factor * p), window_similarity(z, p))


def test_a_silent_window_has_similarity_0_and_no_nan_gradient():
    z = torch.zeros(1, 5, 9, requires_grad=True)
    similarity = window_similarity(z, torch.ones(1, 5, 3))
    similarity.sum().backward()
    assert (similarity == 0).all()
    assert z.grad is not None
    assert torch.isfinite(z.grad).all()


@pytest.mark.parametrize(("window", "bounds"), [(0, (0, 96)), (29, (928, 1000))])
def test_a_window_of_three_steps_starts_at_32_samples_a_step(window, bounds):
    assert window_bounds(window, 3) == bounds


def test_reference_classifier_weights():
    r = reference("classifier_init_l1")
    identity = r["prototype_class_identity"]
    weight = branch_classifier_weight(identity, "reference")
    torch.testing.assert_close(weight, r["expected_init_weight"])
    torch.testing.assert_close(prototype_label_identity((3, 3, 3, 3)), identity)


def test_scaled_weights_start_near_0_where_the_published_ones_saturate():
    identity = prototype_label_identity((18,) * 52)
    alike = torch.full((936,), 11.0)
    published = branch_classifier_weight(identity, "reference") @ alike
    scaled = branch_classifier_weight(identity, ceiling=13.0) @ alike
    torch.testing.assert_close(published, torch.full((52,), -441 * 11.0))
    torch.testing.assert_close(scaled, torch.full((52,), 0.5 * 11 / 13))


def test_scaled_weights_of_a_label_without_prototypes_are_finite():
    weight = branch_classifier_weight(prototype_label_identity((2, 0, 1)))
    torch.testing.assert_close(weight[1], torch.full((3,), -0.5 / 3))


def test_cuda_convolves_in_float32_for_as_long_as_it_is_asked_to():
    setting = torch.backends.cudnn.conv  # pyright: ignore[reportAttributeAccessIssue]
    before = setting.fp32_precision
    with full_precision("cuda"):
        assert setting.fp32_precision == "ieee"
    assert setting.fp32_precision == before
    with pytest.raises(KeyError), full_precision("cuda"):
        raise KeyError
    assert setting.fp32_precision == before
    with full_precision("cpu"):
        assert setting.fp32_precision == before


class FullMemory(PrototypeNetwork):
    """A device that holds a few recordings at a time, and none once it is asked often."""

    def __init__(self, config, fits):
        super().__init__(config)
        self.fits, self.sizes = fits, []

    def forward(self, signal):
        self.sizes.append(len(signal))
        if len(signal) > self.fits:
            raise torch.OutOfMemoryError
        return super().forward(signal)

    def __deepcopy__(self, memo):
        other = FullMemory(self.config, fits=99)
        other.load_state_dict(self.state_dict())
        return other.eval()


@pytest.mark.parametrize(
    ("fits", "sizes"), [(16, [16]), (5, [16, 8, 4, 4, 4, 4]), (0, [16, 8, 4, 2, 1])]
)
def test_a_batch_is_halved_until_it_fits_and_at_last_computed_on_the_cpu(fits, sizes):
    labels = ("AFIB", "SR")
    config = compact(
        {"rhythm": labels}, labels, per_label={"rhythm": 2}, widths=(4, 4, 8, 8)
    )
    network = FullMemory(config, fits).eval()
    signal = np.random.default_rng(0).normal(size=(16, 12, 1000)).astype(np.float32)
    expected = TorchForward(network.__deepcopy__({}), "cpu")(signal)
    found = TorchForward(network, "cpu")(signal)
    assert network.sizes == sizes
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
