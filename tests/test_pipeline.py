from dataclasses import replace

import numpy as np
import pytest

from phenokit.errors import BundleError, Outcome
from phenokit.pipeline import (
    BATCH,
    explain,
    load_ecg_model,
    score_ecg,
    source_recording,
)
from phenokit.recording import LEADS, Recording

CONDITIONS = ("normal", "atrial_fibrillation", "left_bundle_branch_block")


@pytest.fixture(scope="module")
def recordings(ecg):
    return [ecg(CONDITIONS[n % 3], seed=200 + n) for n in range(19)]


@pytest.fixture(scope="module")
def scored(recordings, tiny_model):
    return score_ecg(recordings, tiny_model)


def flat_v4(recording):
    signal = recording.signal.copy()
    signal[LEADS.index("V4")] = 0.0
    return replace(recording, signal=signal)


def test_a_trained_model_tells_what_it_was_trained_on(scored, tiny_model):
    column = tiny_model.labels.index("CLBBB")
    blocked = [CONDITIONS[n % 3] == "left_bundle_branch_block" for n in range(19)]
    for one, is_case in zip(scored, blocked, strict=True):
        if one.outcome is Outcome.SCORED:
            assert (one.probability[column] > 0.5) == is_case


def test_every_logit_is_bias_plus_contributions(recordings, tiny_model):
    explanation = explain(recordings[1], tiny_model)
    assert {f.label for f in explanation.findings} == set(tiny_model.labels)
    for finding in explanation.findings:
        assert len(finding.matches) == len(tiny_model.prototypes)
        total = finding.bias + sum(match.contribution for match in finding.matches)
        assert total == pytest.approx(finding.logit, abs=1e-9)
        sizes = [abs(match.contribution) for match in finding.matches]
        assert sizes == sorted(sizes, reverse=True)


def test_scoring_is_the_same_in_any_company_and_order(recordings, scored, tiny_model):
    alone = [score_ecg([one], tiny_model)[0] for one in recordings[:4]]
    backwards = score_ecg(recordings[::-1], tiny_model)[::-1]
    for ours, others in ((alone, scored), (backwards, scored)):
        for one, other in zip(ours, others, strict=False):
            np.testing.assert_array_equal(one.logit, other.logit)
            np.testing.assert_array_equal(one.similarity, other.similarity)
            np.testing.assert_array_equal(one.window, other.window)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["ecg-demo", "ecg-ptbxl"])
def test_cuda_agrees_with_the_cpu_and_with_itself_in_any_company(recordings, name, cuda):
    cpu, other = (load_ecg_model(name, device=device) for device in ("cpu", cuda))
    expected = score_ecg(recordings, cpu, open_abstained=True)
    scored = score_ecg(recordings, other, open_abstained=True)
    alone = [score_ecg([r], other, open_abstained=True)[0] for r in recordings[::-1]]
    for ours, theirs, lonely in zip(scored, expected, alone[::-1], strict=True):
        np.testing.assert_allclose(ours.probability, theirs.probability, rtol=0, atol=1e-5)
        np.testing.assert_array_equal(ours.logit, lonely.logit)
        np.testing.assert_array_equal(ours.similarity, lonely.similarity)


def test_a_bad_neighbour_changes_no_bit(recordings, scored, tiny_model):
    company = [recordings[0], flat_v4(recordings[1]), *recordings[2:]]
    mixed = score_ecg(company, tiny_model)
    assert mixed[1].outcome is Outcome.ABSTAINED
    np.testing.assert_array_equal(mixed[2].logit, scored[2].logit)


def test_an_abstained_recording_has_no_numbers_unless_opened(recordings, tiny_model):
    bad = flat_v4(recordings[0])
    closed = score_ecg([bad], tiny_model)[0]
    opened = score_ecg([bad], tiny_model, open_abstained=True)[0]
    assert (closed.outcome, closed.code) == (Outcome.ABSTAINED, "A_FLAT")
    assert np.isnan([*closed.probability, *closed.logit, *closed.similarity]).all()
    assert explain(bad, tiny_model).findings == ()
    assert (opened.outcome, opened.code) == (Outcome.ABSTAINED, "A_FLAT")
    assert np.isfinite(opened.probability).all()


def shaped(rng, exponent):
    """Noise with a spectrum that falls by a power of the frequency, 0.5 mV."""
    spectrum = np.fft.rfft(rng.normal(size=(12, 5000)))
    frequency = np.fft.rfftfreq(5000, 1 / 500)
    signal = np.fft.irfft(spectrum / np.maximum(frequency, 0.5) ** exponent, 5000)
    return 0.5 * signal / signal.std(axis=1, keepdims=True)


def hum(rng, _):
    time = np.arange(5000) / 500
    return np.sin(2 * np.pi * (20 * time + rng.random((12, 1))))


STRANGERS = {"white noise": (shaped, 0), "an EEG": (shaped, 1), "a 20 Hz tone": (hum, 0)}


@pytest.fixture(scope="module")
def shipped_model():
    return load_ecg_model("ecg-demo")


@pytest.mark.parametrize("name", STRANGERS)
def test_what_is_no_ecg_is_told_by_its_distance(name, shipped_model):
    make, argument = STRANGERS[name]
    rng = np.random.default_rng(5)
    strangers = [Recording(make(rng, argument), LEADS, 500.0, str(n)) for n in range(5)]
    scored = score_ecg(strangers, shipped_model, open_abstained=True)
    assert sum("A_OOD" in one.all_codes for one in scored) >= 4
    assert all(one.outcome is Outcome.ABSTAINED for one in scored)


def test_recordings_like_the_training_set_are_familiar(scored):
    assert sum("A_OOD" in one.all_codes for one in scored) <= 3


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_model_that_overflows_gives_no_number(recordings, tiny_model, value):
    bias = tiny_model.bias.copy()
    bias[0] = value
    scored = score_ecg(recordings[:1], replace(tiny_model, bias=bias))[0]
    assert (scored.outcome, scored.code) == (Outcome.REJECTED, "E_MODEL_NONFINITE")
    assert np.isnan(scored.probability).all()


def without_v6(recording):
    return replace(
        recording,
        signal=recording.signal[:11],
        channels=LEADS[:11],
        resolution=recording.resolution[:11],
    )


BAD = {
    "twice the same lead": (lambda r: replace(r, channels=("II", *LEADS[1:])), "E_LEADS"),
    "eleven leads": (without_v6, "E_LEADS"),
    "another unit": (lambda r: replace(r, unit="uV"), "E_UNITS"),
    "50 Hz": (lambda r: replace(r, sampling_rate=50.0), "E_FS"),
    "one second": (lambda r: replace(r, signal=r.signal[:, :500]), "A_DURATION"),
    "one sample": (lambda r: replace(r, signal=r.signal[:, :1]), "A_DURATION"),
    "a gap": (
        lambda r: replace(r, signal=np.where(r.signal > 0.5, np.nan, r.signal)),
        "A_",
    ),
    "no signal": (lambda r: replace(r, signal=np.full_like(r.signal, np.nan)), "A_MISSING"),
}


@pytest.mark.parametrize("name", BAD)
def test_whatever_a_recording_is_it_has_one_outcome_and_others_go_on(
    name, recordings, scored, tiny_model
):
    change, code = BAD[name]
    bad, good = score_ecg([change(recordings[0]), recordings[1]], tiny_model)
    assert bad.code.startswith(code)
    assert bad.outcome in (Outcome.REJECTED, Outcome.ABSTAINED)
    assert np.isnan(bad.probability).all()
    np.testing.assert_array_equal(good.logit, scored[1].logit)


def test_leads_are_found_by_name(recordings, scored, tiny_model):
    one = recordings[0]
    shuffled = replace(one, signal=one.signal[::-1].copy(), channels=one.channels[::-1])
    np.testing.assert_array_equal(
        score_ecg([shuffled], tiny_model)[0].logit, scored[0].logit
    )


def test_nothing_is_nothing(tiny_model):
    assert score_ecg([], tiny_model) == []


def test_a_longer_recording_says_which_part_was_scored(recordings, scored, tiny_model):
    one = recordings[0]
    longer = replace(one, signal=np.concatenate([one.signal, one.signal[:, :500]], axis=1))
    result = score_ecg([longer], tiny_model)[0]
    assert "W_WINDOW" in result.all_codes
    assert (result.start, result.stop) == (0.0, 10.0)
    np.testing.assert_array_equal(result.logit, scored[0].logit)


def test_a_prototype_scores_highest_on_its_own_source(tiny_model):
    for prototype in tiny_model.prototypes:
        source = source_recording(prototype, tiny_model)
        assert source is not None
        assert source.record_id == prototype.record_id
        signal = source.signal.astype(np.float32)
        output = tiny_model.forward(np.stack([signal] * BATCH))
        # the archive holds steps of a thousandth
        assert output.similarity[0, prototype.prototype_id] == pytest.approx(1, abs=1e-3)


def test_another_kind_of_bundle_is_refused(tmp_path):
    with pytest.raises(BundleError):
        load_ecg_model(tmp_path)


def test_matched_windows_lie_in_the_recording(recordings, tiny_model):
    for finding in explain(recordings[2], tiny_model).findings:
        for match in finding.matches:
            assert 0 <= match.start < match.stop <= 10.0
            steps = match.prototype.window_steps
            expected = 10.0 if steps is None else min(0.32 * steps, 10.0 - match.start)
            assert match.stop - match.start == pytest.approx(expected)
