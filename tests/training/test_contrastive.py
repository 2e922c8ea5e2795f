"""The pre-training loss is the published one, with negatives from everywhere."""

from pathlib import Path

import numpy as np
import pytest
import torch

from phenokit.training.contrastive import (
    contrastive_logits,
    contrastive_loss,
    draw_negatives,
)

REFERENCE = Path(__file__).parents[1] / "reference" / "ieeg" / "infonce.npz"


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def assert_near(found, expected):
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-9 * np.abs(expected).max())


def test_loss_and_gradients_are_those_of_the_published_code():
    file = np.load(REFERENCE)
    prediction, target = (
        torch.tensor(file[name], requires_grad=True) for name in ("pred", "target")
    )
    negatives = torch.tensor(file["neg_index"]).long()
    logits = contrastive_logits(prediction, target, negatives)
    assert_near(logits.detach(), file["logits"])
    loss = contrastive_loss(prediction, target, negatives)
    assert float(loss.detach()) == pytest.approx(4.7459722909983215, rel=1e-12)
    of_prediction, of_target = torch.autograd.grad(loss, [prediction, target])
    assert_near(of_prediction, file["grad_pred"])
    assert_near(of_target, file["grad_target"])
    assert not of_prediction[:, -1].any()
    assert not of_target[:, 0].any()


def test_a_negative_equal_to_the_positive_is_no_candidate():
    target = torch.randn(1, 2, 2, 4, generator=seeded(), dtype=torch.float64)
    target[0, 0, 1] = target[0, 1, 0] * (1 + 1e-7)
    negatives = torch.tensor([1, 3]).expand(1, 2, 2, 2)
    logits = contrastive_logits(target, target, negatives)
    assert logits[0].isneginf().tolist() == [False, True, False]


def test_negatives_are_uniform_over_all_tokens_but_the_target():
    valid = torch.ones(2, 3, 2, dtype=torch.bool)
    drawn = draw_negatives(valid, 22_000, generator=seeded())
    for row, found in enumerate(drawn.flatten(0, 2)):
        counts = torch.bincount(found, minlength=12)
        assert counts[row] == 0
        others = counts[torch.arange(12) != row]
        # 22,000 draws over 11: 2,000 each, standard deviation 43
        assert (others - 2000).abs().max() < 5 * 43


def test_a_batch_of_one_has_negatives():
    drawn = draw_negatives(torch.ones(1, 2, 1, dtype=torch.bool), 3, generator=seeded())
    assert drawn[0, :, 0].tolist() == [[1, 1, 1], [0, 0, 0]]


def test_masked_tokens_are_neither_positive_nor_negative():
    valid = torch.ones(2, 4, 3, dtype=torch.bool)
    valid[0, 2, 1] = valid[1, :, 0] = False
    negatives = draw_negatives(valid, 500, generator=seeded())
    assert valid.flatten()[negatives[valid]].all()
    prediction, target = torch.randn(2, 2, 4, 3, 5, generator=seeded(), requires_grad=True)
    loss = contrastive_loss(prediction, target, negatives, valid=valid)
    broken = torch.where(valid[..., None], target, torch.nan)
    again = contrastive_loss(prediction, broken, negatives, valid=valid)
    assert torch.equal(loss, again)
    pairs = int((valid[:, :-1] & valid[:, 1:]).sum())
    logits = contrastive_logits(prediction, target, negatives, valid=valid)
    assert len(logits) == pairs == 24 - 6 - 3 - 2


def test_negatives_of_other_patients_only():
    valid = torch.ones(3, 4, 2, dtype=torch.bool)
    valid[2, 1] = False
    subject = torch.tensor([7, 3, 7])
    drawn = draw_negatives(valid, 300, generator=seeded(), subject=subject)
    items = drawn // 8
    assert items[[0, 2]][valid[[0, 2]]].unique().tolist() == [1]
    assert items[1].unique().tolist() == [0, 2]


def test_negatives_of_the_same_time_only():
    valid = torch.ones(2, 3, 4, dtype=torch.bool)
    drawn = draw_negatives(valid, 300, generator=seeded(), same_time=True)
    own = torch.arange(24).view(2, 3, 4, 1)
    assert ((drawn // 4) % 3 == torch.arange(3)[:, None, None]).all()
    assert (drawn != own).all()
    assert all(len(row.unique()) == 7 for row in drawn.flatten(0, 2))


@pytest.mark.parametrize(
    ("valid", "options"),
    [
        (torch.ones(1, 1, 1, dtype=torch.bool), {}),
        (torch.ones(2, 3, 1, dtype=torch.bool), {"subject": torch.tensor([1, 1])}),
        (torch.ones(1, 3, 1, dtype=torch.bool), {"same_time": True}),
    ],
    ids=["one token", "one patient", "one channel"],
)
def test_a_target_without_any_other_token_is_refused(valid, options):
    with pytest.raises(ValueError, match="no other token"):
        draw_negatives(valid, 2, generator=seeded(), **options)


def test_nothing_to_predict_is_refused():
    tokens = torch.randn(1, 1, 3, 4, generator=seeded())
    with pytest.raises(ValueError, match="nothing is to be predicted"):
        contrastive_loss(tokens, tokens, torch.zeros(1, 1, 3, 2, dtype=torch.long))


def test_training_on_the_loss_alone_finds_the_next_token():
    generator = seeded()
    target = torch.randn(2, 4, 3, 8, generator=generator)
    prediction = torch.randn(2, 4, 3, 8, generator=generator, requires_grad=True)
    valid = torch.ones(2, 4, 3, dtype=torch.bool)
    optimiser = torch.optim.Adam([prediction], lr=0.1)
    for _ in range(60):
        optimiser.zero_grad()
        negatives = draw_negatives(valid, 10, generator=generator)
        loss = contrastive_loss(prediction, target, negatives)
        loss.backward()
        optimiser.step()
    tokens = target.flatten(0, 2)
    cosine = torch.cosine_similarity(prediction[:, :-1, :, None], tokens, dim=-1)
    assert torch.equal(cosine.argmax(-1), torch.arange(24).view(2, 4, 3)[:, 1:])
