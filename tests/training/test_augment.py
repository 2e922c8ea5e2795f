from dataclasses import replace

import pytest
import torch

from phenokit.training.augment import Augmentation, augment

OFF = Augmentation(shift=0, gain=0.0, noise=0.0)
CHANGES = {
    "shift": replace(OFF, shift=100),
    "gain": replace(OFF, gain=0.2),
    "noise": replace(OFF, noise=0.1),
    "wander": replace(OFF, wander=0.3),
    "stretch": replace(OFF, stretch=0.1),
    "lead_dropout": replace(OFF, lead_dropout=0.3),
    "mixup": replace(OFF, mixup=0.4),
}


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    signal = torch.randn(6, 12, 1000, generator=generator)
    labels = (torch.rand(6, 3, generator=generator) > 0.5).float()
    return signal, labels


def run(batch, settings, seed=0):
    signal, labels = batch
    generator = torch.Generator().manual_seed(seed)
    return augment(signal, labels, settings, generator=generator)


def test_switched_off_it_changes_nothing(batch):
    signal, labels = run(batch, OFF)
    assert torch.equal(signal, batch[0])
    assert torch.equal(labels, batch[1])


@pytest.mark.parametrize("name", CHANGES)
def test_each_change_is_drawn_from_the_generator(batch, name):
    first, again = run(batch, CHANGES[name]), run(batch, CHANGES[name])
    other = run(batch, CHANGES[name], seed=1)
    assert torch.equal(first[0], again[0])
    assert not torch.equal(first[0], other[0])
    assert not torch.equal(first[0], batch[0])
    assert first[0].shape == batch[0].shape


@pytest.mark.parametrize("name", CHANGES)
def test_an_unknown_label_stays_unknown(batch, name):
    batch[1][2, 1] = torch.nan
    labels = run(batch, CHANGES[name])[1]
    assert torch.isnan(labels[2, 1])
    if name != "mixup":
        assert torch.equal(labels.nan_to_num(9), batch[1].nan_to_num(9))


def test_a_shift_turns_all_leads_of_a_record_together(batch):
    signal, _ = run(batch, CHANGES["shift"])
    for before, after in zip(batch[0], signal, strict=True):
        matches = [s for s in range(-100, 101) if torch.equal(before.roll(s, 1), after)]
        assert len(matches) == 1


def test_a_gain_is_one_factor_a_lead(batch):
    signal, _ = run(batch, CHANGES["gain"])
    factor = signal / batch[0]
    torch.testing.assert_close(factor, factor[..., :1].expand_as(factor), rtol=1e-4, atol=0)


def test_a_lead_is_dropped_as_a_whole(batch):
    signal, _ = run(batch, CHANGES["lead_dropout"])
    dropped = (signal == 0).all(-1)
    assert 0 < dropped.sum() < dropped.numel()
    assert torch.equal(signal[~dropped], batch[0][~dropped])


def test_mixed_labels_lie_between_their_records(batch):
    signal, labels = run(batch, CHANGES["mixup"])
    assert (labels >= 0).all()
    assert (labels <= 1).all()
    # one share for the batch: signal and labels are mixed alike
    share = ((signal - batch[0]).abs().amax(dim=(1, 2)) > 0).sum()
    assert share > 0


def test_wander_is_slow(batch):
    flat = torch.zeros_like(batch[0]), batch[1]
    signal, _ = run(flat, CHANGES["wander"])
    spectrum = torch.fft.rfft(signal).abs().square().sum(dim=(0, 1))
    assert spectrum[:8].sum() > 0.98 * spectrum.sum()  # below 0.8 Hz
    assert signal.abs().max() <= 0.3
