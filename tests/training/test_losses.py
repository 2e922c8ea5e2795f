from pathlib import Path

import numpy as np
import pytest
import torch

from phenokit.networks.prototype import prototype_label_identity
from phenokit.training.losses import (
    LossWeights,
    classification,
    clustering,
    contrastive,
    diversity,
    foreign_l1,
    label_cooccurrence,
    positive_weights,
    prototype_terms,
    separation,
    sparsity,
)

REFERENCE = Path(__file__).parents[1] / "reference/ecg"
# PTB-XL, folds 1 to 8, the 52 morphology codes in the published order
N_TRAIN = 17_418
# fmt: off
MORPHOLOGY_POSITIVES = (
    1461, 615, 94, 2143, 1887, 1708, 1298, 1019, 894, 527, 432, 428, 383, 341, 282, 232,
    175, 171, 161, 143, 141, 135, 116, 113, 102, 84, 79, 64, 62, 41, 35, 26, 24, 14, 13,
    13, 11, 2683, 915, 807, 701, 438, 350, 340, 318, 272, 235, 145, 49, 28, 22, 8,
)
# fmt: on


def reference(name):
    with np.load(REFERENCE / f"{name}.npz") as arrays:
        return {key: torch.from_numpy(arrays[key]) for key in arrays}


def prototypes_of(r):
    vectors = r["prototype_vectors"]
    return vectors[..., None] if vectors.dim() == 2 else vectors[:, :, 0]


@pytest.fixture(params=["loss1d_A", "loss2d_A"])
def r(request):
    return reference(request.param)


def near(value, expected, atol=1e-5):
    assert float(value) == pytest.approx(float(expected), rel=1e-4, abs=atol)


def test_reference_classification(r):
    weighted = classification(r["logits"], r["y"], r["pos_weight"])
    near(weighted, r["expected_bce_posweight"])
    near(classification(r["logits"], r["y"]), r["expected_bce_unweighted"])


def test_reference_terms(r):
    s, y, identity = r["similarity"], r["y"], r["prototype_class_identity"]
    near(clustering(s, y, identity), r["expected_clst"])
    near(separation(s, y, identity), r["expected_sep"])
    near(sparsity(s), r["expected_spars"])
    near(diversity(prototypes_of(r)), r["expected_div"])
    cooccurrence = r["label_cooccurrence"]
    near(contrastive(prototypes_of(r), identity, cooccurrence), r["expected_cnrst"])


@pytest.mark.parametrize(
    ("weights", "key"),
    [
        (LossWeights(), "expected_total_default"),
        (LossWeights(contrastive=0.0), "expected_total_default_nocnrst"),
    ],
)
def test_reference_totals(r, weights, key):
    terms = prototype_terms(
        r["similarity"],
        r["y"],
        prototypes_of(r),
        r["prototype_class_identity"],
        r["label_cooccurrence"],
        weights,
    )
    total = classification(r["logits"], r["y"], r["pos_weight"]) + terms
    near(total, r[key], atol=1e-4)


@pytest.mark.parametrize("name", ["jaccard", "loss1d_A", "loss2d_A"])
def test_reference_cooccurrence(name):
    r = reference(name)
    labels = r["labels"] if name == "jaccard" else r["cooc_labels"]
    expected = r["expected_cooc"] if name == "jaccard" else r["label_cooccurrence"]
    ours = label_cooccurrence(labels.double().numpy())
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)


def test_reference_l1_of_a_branch_classifier():
    r = reference("classifier_init_l1")
    weight, identity = r["random_weight"], r["prototype_class_identity"]
    near(foreign_l1(weight, identity), r["expected_masked_l1"])
    near(foreign_l1(weight, torch.zeros_like(identity)), r["expected_full_l1"])


def test_cooccurrence_counts_only_records_where_both_labels_are_known():
    nan = np.nan
    labels = np.array([[1.0, 1.0], [1.0, nan], [nan, 1.0], [1.0, 0.0], [0.0, 0.0]])
    np.testing.assert_allclose(label_cooccurrence(labels), [[1, 0.5], [0.5, 1]])


def test_an_unknown_label_takes_part_in_no_term():
    generator = torch.Generator().manual_seed(2)
    identity = prototype_label_identity((2, 2, 2))
    similarity = torch.rand(4, 6, generator=generator, requires_grad=True)
    logit = torch.randn(4, 3, generator=generator, requires_grad=True)
    labels = (torch.rand(4, 3, generator=generator) > 0.5).float()
    labels[1] = torch.nan
    labels[2, 0] = torch.nan
    total = (
        classification(logit, labels, torch.full((3,), 4.0))
        + clustering(similarity, labels, identity)
        + separation(similarity, labels, identity)
    )
    of_logit, of_similarity = torch.autograd.grad(total, [logit, similarity])
    assert (of_logit[1] == 0).all()
    assert of_logit[2, 0] == 0
    assert (of_similarity[1] == 0).all()
    assert (of_logit[[0, 3]] != 0).all()


@pytest.mark.parametrize("term", [clustering, separation])
def test_terms_of_known_labels_do_not_move_when_unknown_rows_are_added(term):
    generator = torch.Generator().manual_seed(3)
    identity = prototype_label_identity((2, 2))
    similarity = torch.rand(5, 4, generator=generator)
    labels = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [0.0, 0.0], [1.0, 0.0]])
    more = torch.cat([labels, torch.full((3, 2), torch.nan)])
    padded = torch.cat([similarity, torch.ones(3, 4)])
    torch.testing.assert_close(
        term(padded, more, identity), term(similarity, labels, identity)
    )


def test_nothing_known_is_a_loss_of_0():
    labels = torch.full((2, 3), torch.nan)
    assert classification(torch.ones(2, 3), labels) == 0


def test_soft_labels_of_mixed_records_are_allowed():
    loss = classification(torch.zeros(1, 1), torch.tensor([[0.3]]))
    assert float(loss) == pytest.approx(np.log(2))


def test_diversity_is_0_for_orthogonal_and_highest_for_equal_prototypes():
    assert diversity(torch.eye(4)[..., None]) == pytest.approx(0)
    equal = torch.ones(4, 3, 1)
    assert diversity(equal) == pytest.approx((16 - 4) / 16)


def test_the_contrastive_term_draws_labels_that_occur_together_to_each_other():
    together = torch.tensor([[1.0, 0.8, 0.0], [0.8, 1.0, 0.0], [0.0, 0.0, 1.0]])
    generator = torch.Generator().manual_seed(4)
    prototypes = torch.randn(3, 8, 1, generator=generator, requires_grad=True)
    term = contrastive(prototypes, torch.eye(3), together)
    (slope,) = torch.autograd.grad(term, [prototypes])
    moved = (prototypes - 0.5 * slope).detach()[..., 0]
    before = torch.nn.functional.normalize(prototypes.detach()[..., 0], dim=1)
    after = torch.nn.functional.normalize(moved, dim=1)
    assert after[0] @ after[1] > before[0] @ before[1]
    assert after[0] @ after[2] < before[0] @ before[2]


def published_labels():
    rows = np.arange(N_TRAIN)[:, None]
    return (rows < np.array(MORPHOLOGY_POSITIVES)).astype(np.float32)


@pytest.mark.parametrize(
    ("rule", "column", "expected"),
    [
        ("reference", 0, 14.59),
        ("reference", 51, 2846.25),
        ("conventional", 0, 10.92),
        ("none", 0, 1.0),
    ],
)
def test_class_weights_of_the_published_labels(rule, column, expected):
    assert sum(MORPHOLOGY_POSITIVES) == 22_778
    weight = positive_weights(published_labels(), rule, cap=1e6)
    assert weight[column] == pytest.approx(expected, abs=0.005)


def test_conventional_class_weights_are_capped_and_finite():
    labels = np.array([[1.0, 0.0, np.nan], [0.0, 0.0, np.nan], [0.0, 0.0, 1.0]] * 20)
    weight = positive_weights(labels, cap=5.0)
    np.testing.assert_allclose(weight, [2.0, 5.0, 0.2])
    assert np.isinf(positive_weights(labels, "reference")[1])
