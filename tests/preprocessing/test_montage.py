import numpy as np
import pytest

from phenokit.errors import BadInput
from phenokit.preprocessing.montage import (
    Contact,
    bipolar,
    channel_order,
    common_reference,
    contact_of,
    find_bad_channels,
    in_order,
)
from phenokit.recording import Recording
from phenokit.simulation.ieeg import draw_patient, simulate_ieeg


def recording(signal, channels, sampling_rate=512.0):
    return Recording(
        np.asarray(signal, dtype=float), tuple(channels), sampling_rate, "r", unit="uV"
    )


@pytest.mark.parametrize(
    ("name", "contact"),
    [
        ("LA1", ("LA", 1)),
        ("POL LA12", ("LA", 12)),
        ("EEG A'01-Ref", ("A'", 1)),
        ("LREF_3", ("LREF", 3)),
        ("PD-4", ("PD", 4)),
        ("TP10'", ("TP'", 10)),
        ("ECG", None),
        ("A1-A2", None),
        ("42", None),
    ],
)
def test_a_name_tells_shaft_and_number(name, contact):
    assert contact_of(name) == (contact and Contact(*contact))


def test_the_montage_sorts_by_shaft_then_number_and_not_by_text():
    channels = ["B1", "A10", "A9", "A1"]
    assert channel_order(channels, "montage") == [3, 2, 1, 0]
    assert channel_order(channels, "as_recorded") == [0, 1, 2, 3]
    ordered = in_order(recording(np.arange(4)[:, None], channels), "montage")
    assert ordered.channels == ("A1", "A9", "A10", "B1")
    np.testing.assert_array_equal(ordered.signal[:, 0], [3, 2, 1, 0])


def test_the_montage_refuses_names_that_are_no_contacts_or_the_same():
    with pytest.raises(BadInput, match=r"Channel Fz .* as_recorded"):
        channel_order(["A1", "Fz"], "montage")
    with pytest.raises(BadInput, match="A01 occurs in two"):
        channel_order(["A1", "A01"], "montage")


def test_bipolar_pairs_do_not_reach_over_shafts_or_missing_contacts():
    signal = np.random.default_rng(0).normal(size=(6, 20))
    pairs = bipolar(recording(signal, ["B2", "B1", "A1", "A2", "A4", "A5"]))
    assert pairs.channels == ("A1-A2", "A4-A5", "B1-B2")
    np.testing.assert_array_equal(pairs.signal[2], signal[1] - signal[0])
    with pytest.raises(BadInput, match="neighbours"):
        bipolar(recording(signal[:2], ["A1", "B1"]))


@pytest.mark.parametrize("montage", [bipolar, common_reference])
def test_what_all_contacts_share_disappears(montage):
    rng = np.random.default_rng(0)
    signal, shared = rng.normal(size=(4, 50)), 100 * rng.normal(size=50)
    names = ["A1", "A2", "A3", "A4"]
    clean = montage(recording(signal, names)).signal
    np.testing.assert_allclose(montage(recording(signal + shared, names)).signal, clean)


def test_a_common_reference_leaves_bad_channels_out_and_keeps_gaps():
    signal = np.array([[1.0, np.nan, 4.0], [3.0, np.nan, np.nan], [500.0, np.nan, 5.0]])
    referenced = common_reference(recording(signal, "abc"), bad={"c"})
    np.testing.assert_array_equal(
        referenced.signal, [[-1, np.nan, 0], [1, np.nan, np.nan], [498, np.nan, 1]]
    )
    median = common_reference(recording(signal, "abc"), statistic="median")
    np.testing.assert_array_equal(median.signal[:, 0], [-2, 0, 497])
    with pytest.raises(BadInput, match="Every channel is bad"):
        common_reference(recording(signal, "abc"), bad="abc")


def test_the_faults_of_simulated_channels_are_found_and_no_others():
    rng = np.random.default_rng(3)
    patient = draw_patient(rng, n_channels=64)
    while not {"flat", "mains", "clipped"} <= set(patient.bad_channels.values()):
        patient = draw_patient(rng, n_channels=64)
    ieeg = simulate_ieeg(patient, rng=rng, duration=60, n_seizures=0, n_gaps=0)
    expected = {n: f for n, f in ieeg.truth.bad_channels.items() if f != "loose"}
    assert find_bad_channels(ieeg.read(10, 40)) == expected


def test_a_channel_is_missing_by_its_own_gaps_and_not_by_those_of_all():
    signal = np.random.default_rng(0).normal(size=(3, 4096))
    signal[:, :3000] = np.nan
    assert find_bad_channels(recording(signal, "abc")) == {}
    signal[1, 3000:3700] = np.nan
    assert find_bad_channels(recording(signal, "abc")) == {"b": "missing"}
