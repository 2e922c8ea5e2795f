"""Laws of the simulator that hold whatever the condition."""

import numpy as np
import pytest

from phenokit.recording import LEADS
from phenokit.simulation.conditions import CONDITIONS, contradiction
from phenokit.simulation.ecg import simulate_archive, simulate_ecg
from phenokit.simulation.heart import draw_subject, healthy_heart
from phenokit.simulation.noise import HEAVY, NO_NOISE, TYPICAL
from phenokit.statements import SCP_STATEMENTS, superclasses_of

CODES = {statement.code for statement in SCP_STATEMENTS}


def simulate(conditions, seed=0, **more):
    return simulate_ecg(conditions, rng=np.random.default_rng(seed), **more)


@pytest.fixture(scope="module")
def cohort():
    return simulate_archive(300, rng=np.random.default_rng(7))


@pytest.mark.parametrize(
    "condition", ["normal", "pacing", "atrial_flutter", "acute_lateral_mi"]
)
def test_limb_leads_obey_einthoven_and_goldberger_with_noise(condition):
    lead = dict(zip(LEADS, simulate(condition, noise=HEAVY).recording.signal, strict=True))
    np.testing.assert_allclose(lead["I"] + lead["III"], lead["II"], atol=1e-12)
    np.testing.assert_allclose(lead["aVR"] + lead["aVL"] + lead["aVF"], 0, atol=1e-12)
    np.testing.assert_allclose(2 * lead["aVF"], lead["II"] + lead["III"], atol=1e-12)


@pytest.mark.parametrize("condition", sorted(CONDITIONS))
def test_same_seed_gives_the_same_bytes_and_another_seed_does_not(condition):
    first, again, other = (
        simulate(condition, seed, sampling_rate=100, noise=TYPICAL) for seed in (5, 5, 6)
    )
    assert first.recording.signal.tobytes() == again.recording.signal.tobytes()
    assert first.labels == again.labels
    assert first.recording.signal.tobytes() != other.recording.signal.tobytes()


@pytest.mark.parametrize("condition", sorted(CONDITIONS))
def test_labels_are_scp_codes_and_hold_those_of_the_condition(condition):
    labels = simulate(condition, sampling_rate=100).labels
    assert set(CONDITIONS[condition].codes) <= labels <= CODES


def test_conditions_cover_most_scp_codes_and_every_superclass():
    codes = frozenset(code for c in CONDITIONS.values() for code in c.codes)
    assert len(codes) >= 60
    assert superclasses_of(codes) == {"NORM", "MI", "STTC", "CD", "HYP"}


def test_labels_of_a_combination_are_the_union():
    names = ["atrial_fibrillation", "right_bundle_branch_block", "old_inferior_mi"]
    assert simulate(names).labels == {"AFIB", "CRBBB", "IMI", "QWAVE"}


@pytest.mark.parametrize(
    ("condition", "has_sinus_label"),
    [("normal", True), ("left_bundle_branch_block", True), ("premature_ventricular", True),
     ("sinus_tachycardia", False), ("atrial_fibrillation", False), ("pacing", False)],
)  # fmt: skip
def test_sinus_rhythm_is_labelled_only_where_the_sinus_node_leads(
    condition, has_sinus_label
):
    assert ("SR" in simulate(condition).labels) is has_sinus_label


def test_norm_is_labelled_only_where_nothing_else_is_wrong(cohort):
    for labels in cohort.labels:
        assert ("NORM" in labels) == (labels == {"NORM", "SR"})


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["atrial_fibrillation", "atrial_flutter"], "both of the rhythm"),
        (["left_bundle_branch_block", "acute_inferior_mi"], "hides"),
        (["atrial_fibrillation", "first_degree_block"], "hides"),
        (["normal", "low_t"], "stands alone"),
        (["long_qt", "long_qt"], "twice"),
        (["measles"], "unknown condition measles"),
    ],
)
def test_simulate_refuses_conditions_that_cannot_stand_together(names, reason):
    with pytest.raises(ValueError, match=reason):
        simulate(names)


def test_contradiction_does_not_depend_on_the_order():
    names = sorted(CONDITIONS)
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            one = contradiction([first, second])
            assert (one is None) == (contradiction([second, first]) is None)


@pytest.mark.parametrize(
    "condition",
    ["normal", "atrial_fibrillation", "second_degree_mobitz_1", "premature_ventricular",
     "supraventricular_tachycardia", "left_bundle_branch_block", "third_degree_block"],
)  # fmt: skip
def test_waves_name_the_beats_that_a_detector_finds(condition):
    ecg = simulate(condition, 3, noise=NO_NOISE)
    speed = np.abs(np.gradient(ecg.recording.signal, axis=1)).sum(0)
    active = np.convolve(speed, np.ones(40) / 40, mode="same")
    above = active > 0.35 * np.quantile(active, 0.995)
    starts = np.flatnonzero(np.diff(above.astype(int)) == 1) / 500
    starts = starts[np.insert(np.diff(starts) > 0.2, 0, True)]
    inside = starts[(starts > 0.3) & (starts < 9.5)]
    onsets = ecg.waves.qrs_onset
    gap = np.abs(inside[:, None] - onsets).min(1)
    missed = np.abs(onsets[(onsets > 0.4) & (onsets < 9.4), None] - starts).min(1)
    assert gap.max() < 0.08
    assert missed.max() < 0.08


@pytest.mark.parametrize("condition", sorted(CONDITIONS))
def test_waves_of_each_beat_are_in_order(condition):
    waves = simulate(condition, 2, sampling_rate=100).waves
    names = ("p_onset", "p_peak", "p_offset", "qrs_onset", "r_peak", "qrs_offset",
             "t_onset", "t_peak", "t_offset")  # fmt: skip
    table = np.stack([getattr(waves, name) for name in names])
    step = np.diff(table, axis=0)
    step[2] = table[3] - table[0]  # a short PR: the delta wave begins within the P wave
    assert not (step < -1e-9).any()
    assert len(waves.kind) == table.shape[1]


def test_a_recording_at_100_hz_is_the_same_heart_as_at_500_hz():
    slow, fast = (
        simulate("normal", 4, sampling_rate=rate, noise=NO_NOISE) for rate in (100, 500)
    )
    fine = fast.recording.signal[:, ::5]
    # Only what an anti-alias filter takes away may differ.
    assert np.abs(slow.recording.signal - fine).max() < 0.2 * np.abs(fine).max()
    assert np.corrcoef(slow.recording.signal.ravel(), fine.ravel())[0, 1] > 0.995
    np.testing.assert_array_equal(slow.waves.qrs_onset, fast.waves.qrs_onset)


def test_women_and_the_old_differ_as_in_the_textbook():
    def mean(sex, age, measure):
        rng = np.random.default_rng(0)
        subjects = [draw_subject(rng, age=age, sex=sex) for _ in range(400)]
        return np.mean([getattr(subject, measure) for subject in subjects])

    # Standard errors are below 0.7 ms, 0.01 and 1.2 degrees: each gap is over 4 of them.
    assert mean("female", 40, "qtc") - mean("male", 40, "qtc") > 0.005
    assert mean("male", 40, "qrs_duration") - mean("female", 40, "qrs_duration") > 0.004
    assert mean("male", 40, "gain") - mean("female", 40, "gain") > 0.06
    assert mean("male", 30, "axis") - mean("male", 80, "axis") > 10


def test_j_point_is_higher_in_young_men():
    def height(sex, age):
        rng = np.random.default_rng(1)
        hearts = [
            healthy_heart(draw_subject(rng, age=age, sex=sex), rng) for _ in range(200)
        ]
        return np.mean([h.leads(h.beat.repolarisation["st"].vector)["V3"] for h in hearts])

    assert height("male", 22) > height("male", 75) + 0.01
    assert height("male", 22) > height("female", 22) + 0.01


def test_cohort_gives_every_condition_a_share_and_a_third_to_the_normal(cohort):
    names = [part for text in cohort.columns["condition"] for part in text.split("+")]
    counts = {name: names.count(name) for name in CONDITIONS}
    assert counts.pop("normal") == 105
    assert min(counts.values()) >= 2
    assert max(counts.values()) <= 14


def test_cohort_keeps_a_patient_in_one_fold_with_one_age_and_sex(cohort):
    table = cohort.table
    assert table.record_id.is_unique
    per_patient = table.groupby("patient_id")[["fold", "age", "sex"]].nunique()
    assert (per_patient == 1).all().all()
    assert table.patient_id.nunique() < len(table)
    assert set(table.fold) == set(range(1, 11))


def test_cohort_signals_are_microvolts_that_obey_einthoven(cohort):
    assert cohort.signals.dtype == np.int16
    assert cohort.signals.shape == (300, 12, 1000)
    lead_i, lead_ii, lead_iii = cohort.signals[:, :3].astype(int).transpose(1, 0, 2)
    np.testing.assert_array_equal(lead_i + lead_iii, lead_ii)
    assert 300 < np.median(np.ptp(cohort.signals[:, 1], axis=1)) < 3000


def test_cohort_of_the_same_seed_has_the_same_bytes():
    first, again = (simulate_archive(12, rng=np.random.default_rng(3)) for _ in range(2))
    assert first.signals.tobytes() == again.signals.tobytes()
    assert first.table.equals(again.table)
    assert first.labels == again.labels


def test_the_same_patient_keeps_the_shape_of_the_heart():
    rng = np.random.default_rng(2)
    subject = draw_subject(rng, age=50, sex="male")
    ours = [
        simulate_ecg("normal", rng=rng, subject=subject, noise=NO_NOISE) for _ in range(2)
    ]
    other = simulate_ecg("normal", rng=rng, age=50, sex="male", noise=NO_NOISE)

    def beat(ecg):
        first = int(ecg.waves.qrs_onset[3] * 500)
        return ecg.recording.signal[:, first : first + 60].ravel()

    same = np.corrcoef(beat(ours[0]), beat(ours[1]))[0, 1]
    assert same > 0.98
    assert same > np.corrcoef(beat(ours[0]), beat(other))[0, 1]
