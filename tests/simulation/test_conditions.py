"""Every condition against the criterion by which a cardiologist would know it.

The measurements are made on the signal (without noise) at the wave borders that come with
it; none of them knows how the simulator draws its sizes.
"""

from functools import cache

import numpy as np
import pytest

from phenokit.recording import LEADS
from phenokit.simulation.conditions import CONDITIONS
from phenokit.simulation.ecg import SimulatedECG, simulate_ecg
from phenokit.simulation.noise import NO_NOISE

SEEDS = range(4)
INF = float("inf")


@cache
def simulated(condition: str, seed: int) -> SimulatedECG:
    age, sex = [(34, "male"), (52, "female"), (67, "male"), (81, "female")][seed % 4]
    return simulate_ecg(
        condition, rng=np.random.default_rng(seed), age=age, sex=sex, noise=NO_NOISE
    )


# ---- measurements -------------------------------------------------------------------


def beats(ecg: SimulatedECG, *kinds: str) -> np.ndarray:
    """Numbers of the beats of these kinds (all if none) that lie well inside."""
    inside = (ecg.waves.qrs_onset > 0.3) & (ecg.waves.qrs_offset < 9.2)
    wanted = np.array([not kinds or k in kinds for k in ecg.waves.kind])
    return np.flatnonzero(inside & wanted)


def level(ecg, lead: str, times: np.ndarray) -> float:
    """Median height (mV) at these times above the end of the PR segment of each beat."""
    signal = ecg.recording.channel(lead)
    chosen = main_beats(ecg)
    before = signal[np.round((ecg.waves.qrs_onset[chosen] - 0.006) * 500).astype(int)]
    at = signal[np.clip(np.round(times[chosen] * 500).astype(int), 0, 4999)]
    return float(np.median(at - before))


def main_beats(ecg) -> np.ndarray:
    return beats(ecg, "sinus", "fibrillation", "flutter", "supraventricular")


def st(ecg, *leads: str) -> float:
    """ST level 60 ms after J, mean over the leads."""
    return float(np.mean([level(ecg, lead, ecg.waves.qrs_offset + 0.06) for lead in leads]))


def t(ecg, *leads: str) -> float:
    return float(np.mean([level(ecg, lead, ecg.waves.t_peak) for lead in leads]))


def qrs(ecg, lead: str, *kinds: str) -> np.ndarray:
    """The QRS of the first such beat in one lead, from its onset, baseline taken off."""
    number = beats(
        ecg, *(kinds or ("sinus", "supraventricular", "flutter", "fibrillation"))
    )[1]
    first, last = (
        int(edge[number] * 500) for edge in (ecg.waves.qrs_onset, ecg.waves.qrs_offset)
    )
    signal = ecg.recording.channel(lead)
    return signal[first : last + 1] - signal[first - 3]


def r(ecg, lead: str) -> float:
    return float(qrs(ecg, lead).max())


def s(ecg, lead: str) -> float:
    return float(-qrs(ecg, lead).min())


def early(ecg, *leads: str) -> float:
    """Mean from 10 to 28 ms after onset: negative where the lead starts with a Q."""
    return float(np.mean([qrs(ecg, lead)[5:14].mean() for lead in leads]))


def late(ecg, lead: str) -> float:
    """Mean from 60 to 90 % of the QRS."""
    wave = qrs(ecg, lead)
    return float(wave[int(0.6 * len(wave)) : int(0.9 * len(wave))].mean())


def rate(ecg) -> float:
    return float(60 / np.median(np.diff(ecg.waves.qrs_onset)))


def irregularity(ecg) -> float:
    rr = np.diff(ecg.waves.qrs_onset)
    return float(rr.std() / rr.mean())


def rr_range(ecg) -> float:
    return float(np.ptp(np.diff(ecg.waves.qrs_onset)))


def pr(ecg) -> float:
    return float(np.nanmedian(ecg.waves.qrs_onset - ecg.waves.p_onset))


def width(ecg, *kinds: str, threshold: float = 0.10) -> float:
    """QRS duration from the signal: where the leads together move fast."""
    chosen = beats(ecg, *(kinds or ("sinus",)))
    speed = np.abs(np.gradient(ecg.recording.signal, axis=1)).sum(0)
    widths = []
    for number in chosen:
        first = int((ecg.waves.qrs_onset[number] - 0.04) * 500)
        window = speed[first : first + 130]
        fast = np.flatnonzero(window > threshold * window.max())
        # Slow for 24 ms: the QRS is over; what moves after that is the T wave.
        runs = np.split(fast, np.flatnonzero(np.diff(fast) > 12) + 1)
        mine = next(run for run in runs if window.argmax() in run)
        widths.append((mine[-1] - mine[0]) / 500)
    return float(np.median(widths))


def qtc(ecg) -> float:
    qt = np.nanmedian(ecg.waves.t_offset - ecg.waves.qrs_onset)
    return float(qt / np.cbrt(60 / rate(ecg)))


def axis(ecg) -> float:
    """Frontal axis from the net QRS areas in I and aVF."""
    i, f = qrs(ecg, "I").sum(), qrs(ecg, "aVF").sum()
    return float(np.degrees(np.arctan2(2 * f / np.sqrt(3), i)))


def sokolow(ecg) -> float:
    return s(ecg, "V1") + max(r(ecg, "V5"), r(ecg, "V6"))


def limb_voltage(ecg) -> float:
    return max(np.ptp(qrs(ecg, lead)) for lead in LEADS[:6])


def p_part(ecg, lead: str) -> np.ndarray:
    number = beats(ecg, "sinus")[1]
    first, last = (int(e[number] * 500) for e in (ecg.waves.p_onset, ecg.waves.p_offset))
    signal = ecg.recording.channel(lead)
    return signal[first:last] - signal[first]


def p_height(ecg) -> float:
    return float(p_part(ecg, "II").max())


def p_width(ecg) -> float:
    return float(np.nanmedian(ecg.waves.p_offset - ecg.waves.p_onset))


def p_terminal(ecg) -> float:
    """Depth of the end of P in V1 times its duration (mV s)."""
    part = p_part(ecg, "V1")
    return float(-np.minimum(part, 0).sum() / 500)


def share(ecg, kind: str) -> float:
    return float(np.mean([k == kind for k in ecg.waves.kind]))


def kinds_in_runs(ecg) -> str:
    return "".join("v" if k == "premature ventricular" else "n" for k in ecg.waves.kind)


def p_per_qrs(ecg) -> float:
    return len(ecg.waves.atrial_onset) / len(ecg.waves.qrs_onset)


def atrial_power(ecg, low: float, high: float) -> float:
    """Fraction of the power of lead II between beats that lies in a band (Hz)."""
    quiet = np.ones(5000, dtype=bool)
    for first, last in zip(ecg.waves.qrs_onset, ecg.waves.t_offset, strict=True):
        last = last if np.isfinite(last) else first + 0.4
        quiet[int(first * 500) - 5 : int(last * 500) + 5] = False
    signal = ecg.recording.channel("II")
    signal = np.where(quiet, signal - np.median(signal[quiet]), 0.0)
    power = np.abs(np.fft.rfft(signal)) ** 2
    frequency = np.fft.rfftfreq(5000, 1 / 500)
    band = (frequency >= low) & (frequency <= high)
    return float(power[band].sum() / power[frequency > 0.5].sum())


def u(ecg, lead: str) -> float:
    """Height a quarter of QT after the end of T."""
    qt = ecg.waves.t_offset - ecg.waves.qrs_onset
    return level(ecg, lead, ecg.waves.t_offset + 0.22 * qt)


def spike_height(ecg) -> float:
    jump = np.abs(np.diff(ecg.recording.signal, axis=1)).max(0)
    near = [jump[int(x * 500) - 2 : int(x * 500) + 3].max() for x in ecg.waves.spikes[1:-1]]
    return float(min(near))


def pause(ecg) -> float:
    """Longest RR over the shortest RR."""
    rr = np.diff(ecg.waves.qrs_onset)
    return float(rr.max() / rr.min())


def pr_spread(ecg) -> float:
    return float(
        np.nanmax(ecg.waves.qrs_onset - ecg.waves.p_onset)
        - np.nanmin(ecg.waves.qrs_onset - ecg.waves.p_onset)
    )


def notches(ecg) -> int:
    """Changes of direction inside the QRS, over all leads."""
    total = 0
    for lead in LEADS:
        wave = qrs(ecg, lead)
        step = np.diff(wave)
        step = step[np.abs(step) > 0.004]
        total += int((np.diff(np.sign(step)) != 0).sum())
    return total


TERRITORY = {
    "anterior": ("V2", "V3", "V4"),
    "anteroseptal": ("V1", "V2", "V3"),
    "anterolateral": ("I", "aVL", "V3", "V4", "V5", "V6"),
    "lateral": ("I", "aVL", "V5", "V6"),
    "inferior": ("II", "III", "aVF"),
    "inferolateral": ("II", "III", "aVF", "V5", "V6"),
}

# condition, what is measured, lowest and highest value allowed
CRITERIA = [
    ("normal", rate, 60, 100),
    ("normal", pr, 0.12, 0.20),
    ("normal", width, 0.06, 0.11),
    ("normal", qtc, 0.34, 0.45),
    ("normal", axis, -30, 95),
    ("normal", sokolow, 0.8, 3.5),
    ("normal", limb_voltage, 0.5, 4),
    ("normal", p_height, 0.03, 0.25),
    ("normal", lambda e: r(e, "V1") / s(e, "V1"), 0, 1),
    ("normal", lambda e: r(e, "V5") - r(e, "V1"), 0.2, INF),
    ("normal", lambda e: r(e, "aVR"), 0, 0.35),
    ("normal", lambda e: t(e, "I", "II", "V4", "V5", "V6"), 0.1, 1.0),
    ("normal", lambda e: t(e, "aVR"), -1, -0.03),
    ("normal", lambda e: max(abs(st(e, lead)) for lead in LEADS), 0, 0.15),
    ("sinus_tachycardia", rate, 100, 145),
    ("sinus_bradycardia", rate, 38, 60),
    ("sinus_arrhythmia", rr_range, 0.12, 0.8),
    ("sinus_arrhythmia", p_per_qrs, 0.8, 1.25),
    ("atrial_fibrillation", irregularity, 0.11, 0.6),
    ("atrial_fibrillation", p_per_qrs, 0, 0),
    ("atrial_fibrillation", lambda e: atrial_power(e, 3, 20), 0.3, 1),
    ("atrial_flutter", lambda e: atrial_power(e, 3.8, 17), 0.3, 1),
    ("atrial_flutter", p_per_qrs, 0, 0),
    ("atrial_flutter", rate, 45, 175),
    ("wandering_pacemaker", irregularity, 0.05, 0.3),
    ("wandering_pacemaker", pr_spread, 0.005, 0.12),
    ("supraventricular_tachycardia", rate, 145, 220),
    ("supraventricular_tachycardia", irregularity, 0, 0.03),
    ("supraventricular_tachycardia", lambda e: width(e, "supraventricular"), 0.05, 0.13),
    ("paroxysmal_tachycardia", lambda e: share(e, "sinus"), 0.05, 0.6),
    ("paroxysmal_tachycardia", irregularity, 0.25, 1),
    ("second_degree_mobitz_1", pr_spread, 0.06, 0.25),
    ("second_degree_mobitz_1", p_per_qrs, 1.15, 1.8),
    ("second_degree_mobitz_2", pr_spread, 0, 0.002),
    ("second_degree_mobitz_2", pause, 1.7, 2.3),
    ("second_degree_2_to_1", p_per_qrs, 1.6, 2.5),
    ("second_degree_2_to_1", irregularity, 0, 0.08),
    ("third_degree_block", rate, 24, 56),
    ("third_degree_block", irregularity, 0, 0.06),
    ("third_degree_block", p_per_qrs, 1.25, 4),
    ("pacing", spike_height, 0.15, 20),
    ("first_degree_block", pr, 0.205, 0.36),
    ("premature_atrial", lambda e: share(e, "premature atrial"), 0.04, 0.4),
    ("premature_atrial", lambda e: width(e, "premature atrial"), 0.05, 0.11),
    (
        "premature_ventricular",
        lambda e: width(e, "premature ventricular", threshold=0.2),
        0.1,
        0.2,
    ),
    ("premature_ventricular", lambda e: share(e, "premature ventricular"), 0.04, 0.4),
    ("premature_ventricular", pause, 1.6, 3.5),
    ("bigeminy", lambda e: kinds_in_runs(e).count("nv"), 3, 10),
    ("bigeminy", lambda e: kinds_in_runs(e).count("nn"), 0, 0),
    ("trigeminy", lambda e: kinds_in_runs(e).count("nnv"), 2, 8),
    ("trigeminy", lambda e: kinds_in_runs(e).count("nnn"), 0, 0),
    ("right_bundle_branch_block", width, 0.115, 0.18),
    ("right_bundle_branch_block", lambda e: late(e, "V1"), 0.2, 3),
    ("right_bundle_branch_block", lambda e: late(e, "V6"), -3, -0.1),
    ("right_bundle_branch_block", lambda e: late(e, "I"), -3, -0.05),
    ("right_bundle_branch_block", lambda e: early(e, "V1"), 0.0, 2),
    ("right_bundle_branch_block", lambda e: t(e, "V1"), -1, 0.0),
    ("incomplete_right_bundle_branch_block", width, 0.07, 0.12),
    ("incomplete_right_bundle_branch_block", lambda e: late(e, "V1"), 0.05, 1),
    ("left_bundle_branch_block", width, 0.115, 0.19),
    ("left_bundle_branch_block", lambda e: qrs(e, "V1").mean(), -3, -0.2),
    ("left_bundle_branch_block", lambda e: qrs(e, "V6").mean(), 0.2, 3),
    ("left_bundle_branch_block", lambda e: qrs(e, "V6")[:40].min(), -0.04, 0.01),
    ("left_bundle_branch_block", lambda e: early(e, "V6"), 0.0, 2),
    ("left_bundle_branch_block", lambda e: t(e, "V6"), -2, -0.05),
    ("left_bundle_branch_block", lambda e: t(e, "V1"), 0.05, 2),
    ("incomplete_left_bundle_branch_block", width, 0.085, 0.12),
    ("incomplete_left_bundle_branch_block", lambda e: early(e, "V6"), 0.0, 2),
    ("intraventricular_delay", width, 0.09, 0.15),
    ("pre_excitation", pr, 0.06, 0.12),
    ("pre_excitation", width, 0.10, 0.17),
    ("left_anterior_fascicular_block", axis, -90, -40),
    ("left_anterior_fascicular_block", width, 0.07, 0.12),
    ("left_anterior_fascicular_block", lambda e: r(e, "aVL") - s(e, "aVL"), 0.1, 4),
    ("left_anterior_fascicular_block", lambda e: early(e, "II", "III", "aVF"), 0.0, 2),
    ("left_posterior_fascicular_block", axis, 90, 150),
    ("left_posterior_fascicular_block", lambda e: early(e, "I", "aVL"), 0.0, 2),
    ("left_posterior_fascicular_block", lambda e: early(e, "III"), -2, 0.0),
    ("left_atrial_enlargement", p_width, 0.12, 0.16),
    ("left_atrial_enlargement", p_terminal, 0.004, 0.03),
    ("right_atrial_enlargement", p_height, 0.25, 0.6),
    ("right_atrial_enlargement", p_width, 0.07, 0.12),
    ("left_ventricular_hypertrophy", sokolow, 3.5, 7),
    ("left_ventricular_hypertrophy", lambda e: s(e, "V1") + s(e, "V2"), 1.2, 9),
    ("left_ventricular_hypertrophy", width, 0.07, 0.12),
    ("right_ventricular_hypertrophy", lambda e: r(e, "V1"), 0.65, 3),
    ("right_ventricular_hypertrophy", lambda e: r(e, "V1") / s(e, "V1"), 1, INF),
    ("right_ventricular_hypertrophy", axis, 88, 160),
    ("right_ventricular_hypertrophy", lambda e: t(e, "V1", "V2", "V3"), -0.5, -0.03),
    ("septal_hypertrophy", lambda e: early(e, "V5", "V6"), -1, -0.04),
    ("septal_hypertrophy", lambda e: r(e, "V1"), 0.4, 3),
    ("low_voltage", limb_voltage, 0.1, 0.5),
    ("high_voltage", sokolow, 3.5, 6),
    ("acute_posterior_mi", lambda e: st(e, "V1", "V2", "V3"), -1, -0.1),
    ("old_posterior_mi", lambda e: r(e, "V2") / s(e, "V2"), 1, INF),
    ("old_posterior_mi", lambda e: t(e, "V1", "V2", "V3"), 0.15, 1),
    ("old_inferoposterior_mi", lambda e: early(e, "II", "III", "aVF"), -1, 0.0),
    (
        "old_inferoposterolateral_mi",
        lambda e: early(e, "II", "III", "aVF", "V5", "V6"),
        -1,
        0.0,
    ),
    ("aneurysm", lambda e: st(e, "V2", "V3", "V4"), 0.09, 0.4),
    ("aneurysm", lambda e: early(e, "V2", "V3", "V4"), -2, -0.1),
    ("acute_inferior_mi", lambda e: st(e, "aVL"), -0.6, -0.02),
    ("acute_lateral_mi", lambda e: st(e, "III"), -0.9, -0.02),
    ("ischaemia_unspecific", lambda e: t(e, "I", "II", "V4", "V5", "V6"), -1, -0.07),
    (
        "unspecific_st_depression",
        lambda e: st(e, "I", "II", "V4", "V5", "V6"),
        -0.16,
        -0.04,
    ),
    ("unspecific_st_depression", lambda e: t(e, "I", "II", "V4", "V5", "V6"), 0.05, 0.4),
    ("unspecific_st_change", lambda e: max(abs(st(e, lead)) for lead in LEADS), 0.03, 0.25),
    (
        "nondiagnostic_t",
        lambda e: np.abs([t(e, "V5"), t(e, "II"), t(e, "I")]).max(),
        0,
        0.2,
    ),
    (
        "low_t",
        lambda e: max(t(e, lead) / r(e, lead) for lead in ("I", "V5", "V6")),
        0,
        0.14,
    ),
    ("low_t", lambda e: t(e, "I", "V4", "V5", "V6"), 0.0, 0.2),
    ("inverted_t", lambda e: t(e, "I", "II", "V4", "V5", "V6"), -0.8, -0.1),
    ("inverted_t", lambda e: abs(st(e, "II", "V5")), 0, 0.06),
    ("long_qt", qtc, 0.47, 0.60),
    ("hyperkalaemia", lambda e: t(e, "V4"), 0.6, 3),
    ("hypokalaemia", lambda e: u(e, "V3") - t(e, "V3"), 0.0, 1),
    ("hypokalaemia", lambda e: st(e, "V4", "V5", "V6"), -0.3, -0.03),
    ("hypocalcaemia", qtc, 0.465, 0.57),
    ("hypocalcaemia", lambda e: abs(st(e, "V5")), 0, 0.1),
    ("hypercalcaemia", qtc, 0.28, 0.35),
    ("digitalis", lambda e: st(e, "V5", "V6", "II"), -0.4, -0.05),
    ("digitalis", qtc, 0.33, 0.40),
    ("fragmented_qrs", width, 0.06, 0.12),
    ("fragmented_qrs", lambda e: notches(e) - notches(simulated("normal", 0)), 2, 60),
]
for _name, _leads in TERRITORY.items():
    CRITERIA += [
        (f"acute_{_name}_mi", lambda e, x=_leads: st(e, *x), 0.1, 1.0),
        (f"old_{_name}_mi", lambda e, x=_leads: early(e, *x), -2, -0.05),
        (f"old_{_name}_mi", lambda e, x=_leads: t(e, *x), -0.5, 0.2),
        (f"ischaemia_{_name}", lambda e, x=_leads: t(e, *x), -1.2, -0.07),
        (f"ischaemia_{_name}", lambda e, x=_leads: st(e, *x), -0.2, 0.0),
        (f"injury_{_name}", lambda e, x=_leads: st(e, *x), -0.7, -0.11),
    ]
CRITERIA = [row for row in CRITERIA if row[0] in CONDITIONS]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("condition", sorted(CONDITIONS))
def test_condition_meets_the_criteria_that_define_it(condition, seed):
    ecg = simulated(condition, seed)
    criteria = [row for row in CRITERIA if row[0] == condition]
    measured = [(low, float(measure(ecg)), high) for _, measure, low, high in criteria]
    assert criteria
    wrong = [
        (low, round(value, 3), high)
        for low, value, high in measured
        if not low <= value <= high
    ]
    assert not wrong
