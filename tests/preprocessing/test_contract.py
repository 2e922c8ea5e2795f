import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from phenokit.errors import BadInput
from phenokit.preprocessing.contract import InputContract, for_display, prepare
from phenokit.recording import LEADS, Recording

CONTRACT = InputContract()
DATA = os.environ.get("PHENOKIT_DATA")


def ecg_like(rng, *, rate=100.0, duration=10.0, record_id="made"):
    """Twelve leads of spikes on a drift, with noise."""
    time = np.arange(round(rate * duration)) / rate
    beats = np.exp(-0.5 * ((time % 0.8 - 0.4) / 0.02) ** 2)
    drift = np.sin(2 * np.pi * 0.2 * time)
    gains = rng.uniform(0.2, 2.0, (12, 1))
    noise = rng.normal(0.0, 0.02, (12, time.size))
    return Recording(gains * beats + drift + noise, LEADS, rate, record_id)


@pytest.fixture
def rng():
    return np.random.default_rng(3)


@pytest.mark.parametrize("rate", [100.0, 257.0, 500.0])
def test_a_record_prepared_alone_equals_itself_among_others(rng, rate):
    records = [ecg_like(rng, rate=rate) for _ in range(7)]
    together = [prepare(record, CONTRACT).signal for record in records]
    alone = prepare(replace(records[4], signal=records[4].signal.copy()), CONTRACT).signal
    assert alone.tobytes() == together[4].tobytes()


@pytest.mark.parametrize("rate", [100.0, 500.0])
def test_prepare_finds_the_leads_by_name_in_any_order(rng, rate):
    record = ecg_like(rng, rate=rate)
    order = rng.permutation(12)
    names = tuple(LEADS[i].upper() for i in order)
    permuted = replace(record, signal=record.signal[order], channels=names)
    expected = prepare(record, CONTRACT).signal
    np.testing.assert_allclose(prepare(permuted, CONTRACT).signal, expected, atol=1e-5)


@pytest.mark.parametrize("rate", [100.0, 500.0])
def test_z_scores_do_not_depend_on_gain_or_offset(rng, rate):
    record = ecg_like(rng, rate=rate)
    louder = replace(record, signal=3.0 * record.signal + 20.0)
    expected = prepare(record, CONTRACT).signal
    np.testing.assert_allclose(prepare(louder, CONTRACT).signal, expected, atol=2e-5)
    np.testing.assert_allclose(expected.std(axis=1), 1.0, atol=0.01)


def test_without_normalisation_prepare_is_linear(rng):
    published = InputContract(high=None, order=1, normalisation="none")
    one, two = ecg_like(rng), ecg_like(rng)
    both = replace(one, signal=one.signal - 2.0 * two.signal)
    parts = [prepare(record, published).signal for record in (one, two)]
    np.testing.assert_allclose(
        prepare(both, published).signal, parts[0] - 2.0 * parts[1], atol=1e-5
    )


def test_for_display_shows_what_was_scored_in_millivolts(rng):
    record = ecg_like(rng, rate=500.0, duration=12.0)
    shown, scored = for_display(record, CONTRACT), prepare(record, CONTRACT)
    assert (shown.unit, shown.sampling_rate, shown.channels) == ("mV", 100.0, LEADS)
    for shown_lead, scored_lead in zip(shown.signal, scored.signal, strict=True):
        assert np.corrcoef(shown_lead, scored_lead)[0, 1] > 1 - 1e-6
    assert shown.notices == scored.notices


@pytest.mark.parametrize(
    ("duration", "codes", "stop"),
    [(10.0, [], 10.0), (12.0, ["W_WINDOW"], 10.0), (9.95, ["W_WINDOW"], 9.95)],
)
def test_the_window_is_the_first_ten_seconds(rng, duration, codes, stop):
    record = ecg_like(rng, duration=duration)
    prepared = prepare(record, CONTRACT)
    assert prepared.signal.shape == (12, 1000)
    assert [notice.code for notice in prepared.notices] == codes
    assert (prepared.start, prepared.stop) == (0.0, stop)
    first = replace(record, signal=record.signal[:, :1000])
    held = np.pad(first.signal, ((0, 0), (0, 1000 - first.signal.shape[1])), mode="edge")
    whole = prepare(replace(record, signal=held), CONTRACT)
    np.testing.assert_array_equal(prepared.signal, whole.signal)


def test_a_gap_makes_its_lead_nan_and_a_flat_lead_is_zero(rng):
    record = ecg_like(rng)
    record.signal[2, 10] = np.nan
    record.signal[5] = 0.3
    signal = prepare(record, CONTRACT).signal
    assert np.isnan(signal[2]).all()
    np.testing.assert_array_equal(signal[5], 0.0)
    assert np.isfinite(np.delete(signal, 2, 0)).all()


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        ({"signal": np.zeros((12, 985))}, "A_DURATION", "lasts 9.8 s"),
        ({"sampling_rate": 80.0}, "E_FS", "80 Hz is less"),
        ({"unit": "uV"}, "E_UNITS", "in uV; mV is expected"),
        ({"channels": (*LEADS[:-1], "V7")}, "E_LEADS", "missing V6"),
    ],
)
def test_prepare_refuses_what_the_network_cannot_read(change, code, words):
    record = replace(Recording(np.zeros((12, 1000)), LEADS, 100.0, "bad"), **change)
    with pytest.raises(BadInput, match=words) as refusal:
        prepare(record, CONTRACT)
    assert refusal.value.code == code


def test_a_contract_survives_json_and_another_version_is_refused():
    published = InputContract(high=None, order=1, normalisation="none")
    assert InputContract.from_dict(published.to_dict()) == published
    assert published.identifier != CONTRACT.identifier
    with pytest.raises(BadInput, match="notch") as refusal:
        InputContract.from_dict(CONTRACT.to_dict() | {"notch": 50})
    assert refusal.value.code == "E_VERSION"


@pytest.mark.realdata
@pytest.mark.skipif(DATA is None, reason="PHENOKIT_DATA is not set")
def test_raw_records_become_the_published_z_scores():
    data = Path(DATA or "")
    with np.load(data / "ptbxl-500-raw/records500_delta_uV.npz") as archive:
        raw = archive["d"].cumsum(-1, dtype=np.int16) / 1000.0
        rows = {ecg_id: row for row, ecg_id in enumerate(archive["ecg_id"].tolist())}
    with np.load(data / "ptbxl-1819-zscored/ptbxl1819_100hz_z1000.npz") as archive:
        z = dict(zip(archive["ecg_id"].tolist(), archive["x"] / 1000.0, strict=True))
    shared = sorted(rows.keys() & z.keys())
    assert len(shared) == 34
    for ecg_id in shared:
        prepared = prepare(Recording(raw[rows[ecg_id]], LEADS, 500.0, "raw"), CONTRACT)
        # Half a step of 0.001 is rounding of the stored z-scores.
        np.testing.assert_allclose(prepared.signal, z[ecg_id].T, atol=7e-4)
