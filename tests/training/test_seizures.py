"""Training of seizure networks: archive, both stages, resumed runs, bundle."""

from dataclasses import replace
from datetime import date

import numpy as np
import pytest
import torch

from phenokit.errors import BadInput
from phenokit.monitor import load_ieeg_model
from phenokit.networks.mvpa import AttentionRule
from phenokit.networks.mvpformer import IEEGContract, MVPFormerConfig
from phenokit.preprocessing.segments import SegmentRule
from phenokit.recording import Event
from phenokit.training.assemble_seizures import assemble
from phenokit.training.recipe import CardTexts
from phenokit.training.segment_archive import SegmentArchive, ToArchive, write_archive
from phenokit.training.seizures import (
    SeizureFitConfig,
    draw_windows,
    fit_seizures,
    segment_logits,
)

RULE = SegmentRule(samples=512, min_referenced=99)
CONFIG = MVPFormerConfig(
    16, 2, 2, 1, 32,
    rule=AttentionRule(window=4, exempt_last=False, horizon=4),
    dropout=0.0,
    contract=IEEGContract(samples=512, min_segments=4, max_channels=6),
)  # fmt: skip
SETTINGS = SeizureFitConfig(
    segments=8, tokens=96, pretraining_steps=2, steps=4, steps_a_checkpoint=2,
    learning_rate=3e-3, validation_windows=4,
)  # fmt: skip
TEXTS = CardTexts(
    first_line="Test.", version="0.1.0", intended_use="Test.", population="Test.",
    inputs="Test.", outputs="Test.", warnings=["Test."], owner="Test.",
    licences={"code": "a", "weights": "b", "training_data": "c"},
    training_data="Test.", split="Test.",
)  # fmt: skip


class Array:
    """A recording of an array at 512 Hz."""

    record_id, unit, sampling_rate = "array", "uV", 512

    def __init__(self, signal, unit="uV"):
        self.signal, self.unit = signal.astype(np.float32), unit
        self.channels = tuple(f"A{k + 1}" for k in reversed(range(len(signal))))
        self.n_samples = signal.shape[1]

    def samples(self, first, stop):
        return self.signal[:, first:stop]


def patient(number, split):
    """Noise; from 20 to 30 s a rhythm in two of six channels."""
    rng = np.random.default_rng(number)
    signal = np.cumsum(20 * rng.standard_normal((6, 60 * 512)), axis=1)
    signal -= 0.98 * np.roll(signal, 1, axis=1)
    time = np.arange(20 * 512, 30 * 512) / 512
    signal[:2, 20 * 512 : 30 * 512] += 300 * np.sin(2 * np.pi * 9 * time)
    seizure = Event("sz", 20.0, 30.0, channels=("A6", "A5"))
    return ToArchive(Array(signal), f"patient {number}", split, (seizure,))


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> SegmentArchive:
    folder = tmp_path_factory.mktemp("archive")
    splits = ("train", "train", "train", "val", "val")
    recordings = [patient(k, split) for k, split in enumerate(splits)]
    return write_archive(folder, recordings, rule=RULE, dataset="test")


def test_the_archive_holds_prepared_segments_in_montage_order(archive):
    one = archive.of("train")[0]
    assert one.channels == ("A1", "A2", "A3", "A4", "A5", "A6")
    raw = patient(0, "train").recording.samples(5 * 512, 6 * 512)[::-1]
    expected = raw - raw.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(archive.signal(one, 5, 6)[0], expected, atol=0.051)
    np.testing.assert_array_equal(np.flatnonzero(archive.label(one)), np.arange(20, 30))
    assert archive.channel_label(one)[25].tolist() == [0, 0, 0, 0, 1, 1]
    assert not archive.channel_label(one)[10].any()


def test_the_archive_refuses_units_and_a_patient_in_two_splits(tmp_path):
    volts = ToArchive(Array(np.zeros((2, 5000)), unit="V"), "p", "train", ())
    with pytest.raises(BadInput, match="microvolts"):
        write_archive(tmp_path, [volts], rule=RULE, dataset="x")
    with pytest.raises(BadInput, match="one split"):
        write_archive(tmp_path, [patient(1, "train"), patient(1, "val")], rule=RULE,
                      dataset="x")  # fmt: skip
    with pytest.raises(BadInput, match="no finished archive"):
        SegmentArchive(tmp_path)


def test_every_segment_of_a_window_is_scored_as_the_last_of_one_that_ends_there(archive):
    network = fit_seizures(CONFIG, archive, replace(SETTINGS, steps=2),
                           run_folder=archive.folder / "prefix")  # fmt: skip
    rng = np.random.default_rng(3)
    windows = draw_windows(archive, archive.of("val"), SETTINGS, rng=rng)
    with torch.inference_mode():
        at_once = segment_logits(network, windows)
        for t in (2, 5):
            alone = network.classify(
                windows.signal[:, : t + 1], valid=windows.valid[:, : t + 1]
            )
            torch.testing.assert_close(at_once[:, t], alone, atol=1e-5, rtol=1e-4)


def test_windows_hold_seizures_as_often_as_asked(archive):
    def share(ictal_share):
        settings = replace(SETTINGS, ictal_share=ictal_share, tokens=4800)
        rng = np.random.default_rng(0)
        windows = draw_windows(archive, archive.of("train"), settings, rng=rng)
        return windows.label.amax(1).float().mean()

    assert share(1.0) == 1
    assert share(0.0) < 0.6


@pytest.mark.parametrize("adaptation", ["all", "lora"])
def test_a_run_that_is_cut_off_and_resumed_ends_in_the_same_bits(
    archive, tmp_path, adaptation
):
    settings = replace(SETTINGS, adaptation=adaptation)
    whole = fit_seizures(CONFIG, archive, settings, run_folder=tmp_path / "whole")

    def stop(progress):
        if (progress.stage, progress.epoch) == ("fine-tuning", 1):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit_seizures(CONFIG, archive, settings, run_folder=tmp_path / "cut", report=stop)
    resumed = fit_seizures(
        CONFIG, archive, settings, run_folder=tmp_path / "cut", resume=True
    )
    for (name, a), b in zip(
        whole.state_dict().items(), resumed.state_dict().values(), strict=True
    ):
        assert torch.equal(a, b), name
    with pytest.raises(BadInput, match="another configuration"):
        fit_seizures(CONFIG, archive, replace(settings, seed=1),
                     run_folder=tmp_path / "cut", resume=True)  # fmt: skip


def test_adapters_leave_the_other_weights_alone(archive, tmp_path):
    before = fit_seizures(CONFIG, archive, replace(SETTINGS, steps=0),
                          run_folder=tmp_path / "before")  # fmt: skip
    after = fit_seizures(CONFIG, archive, replace(SETTINGS, adaptation="lora", steps=4),
                         run_folder=tmp_path / "after")  # fmt: skip
    moved = {
        name
        for name, weight in before.state_dict().items()
        if not torch.equal(weight, after.state_dict()[name])
    }
    assert moved == {"head.weight"} | {
        f"blocks.{k}.attn.{part}.weight" for k in range(2) for part in ("q_attn", "c_attn")
    }


def test_an_exempt_last_segment_is_refused(archive, tmp_path):
    config = replace(CONFIG, rule=AttentionRule(exempt_last=True))
    with pytest.raises(ValueError, match="exempt_last=False"):
        fit_seizures(config, archive, SETTINGS, run_folder=tmp_path)


@pytest.mark.slow
def test_a_trained_bundle_tells_the_rhythm_and_says_so_on_its_card(archive, tmp_path):
    settings = replace(SETTINGS, steps=120, steps_a_checkpoint=50, pretraining_steps=10)
    network = fit_seizures(CONFIG, archive, settings, run_folder=tmp_path / "run")
    bundle_hash = assemble(
        network, archive, tmp_path / "bundle", name="test", texts=TEXTS, limit=500.0,
        training={"seed": 0}, today=date(2026, 1, 1),
    )  # fmt: skip
    model = load_ieeg_model(tmp_path / "bundle")
    assert model.bundle_hash == bundle_hash
    assert model.n_segments == 4
    assert 0 < model.event_rule.theta_on < 1
    assert model.bundle is not None
    card = {row["metric"]: row for row in model.bundle.card["performance"]}
    assert card["segment AUROC"]["value"] > 0.8
    assert "2 patients" in card["event F1"]["label"]
