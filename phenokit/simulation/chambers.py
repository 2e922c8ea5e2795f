"""Large atria, thick ventricles, high and low voltage.

Criteria: Hancock et al. (2009), doi:10.1016/j.jacc.2008.12.015.
"""

import numpy as np

from phenokit.simulation.heart import (
    Heart,
    bump,
    qrs_in_leads,
    scale_qrs,
    set_axis,
    sokolow_lyon,
    t_wave,
)
from phenokit.simulation.territories import set_st, set_t


def left_atrial_enlargement(heart: Heart, rng: np.random.Generator) -> None:
    """A broad notched P, with a deep negative end in V1."""
    heart.p_duration = max(heart.p_duration, rng.uniform(0.124, 0.146))
    size = rng.uniform(0.9, 1.4)
    left = size * np.array([0.075, 0.060, 0.150])
    heart.p["right"] = heart.p["right"]._replace(centre=0.27, rise=0.33, fall=0.30)
    heart.p["left"] = bump(0.69, 0.36, *left)


def right_atrial_enlargement(heart: Heart, rng: np.random.Generator) -> None:
    """A tall peaked P in the inferior leads, of normal duration."""
    tall = rng.uniform(0.27, 0.40)
    right = heart.p["right"]._replace(centre=0.42, rise=0.48, fall=0.46)
    direction = np.array([0.02, 0.95, -0.30]) + rng.normal(0, 0.05, 3)
    left = heart.leads(heart.p["left"].vector)["II"] * 0.55
    unit = heart.leads(direction)["II"]
    heart.p["right"] = right._replace(vector=direction * max(tall - left, 0.15) / unit)


def left_ventricular_hypertrophy(heart: Heart, rng: np.random.Generator) -> None:
    """High forces to the left and the back; with strain, ST and T turn away from them."""
    beat = heart.beat
    beat.qrs_duration = max(beat.qrs_duration, rng.uniform(0.088, 0.112))
    backwards = rng.uniform(0.10, 0.30) * heart.subject.gain
    for name in {"apex", "free_wall"} & set(beat.qrs):
        vector = beat.qrs[name].vector + np.array([0.10, 0.0, backwards])
        beat.qrs[name] = beat.qrs[name]._replace(vector=vector)
    target = 3.7 + abs(rng.normal(0, 0.8))
    measured = sokolow_lyon(qrs_in_leads(beat, heart.subject.lead_vectors))
    # A right bundle branch block hides the S of V1; the voltage then shows elsewhere.
    scale_qrs(heart, float(np.clip(target / measured, 1.0, 2.6)))
    heart.labels |= {"VCLVH"} if rng.random() < 0.8 else {"VCLVH", "HVOLT"}
    if rng.random() < 0.6:
        strain = rng.uniform(0.3, 1.0)
        set_st(heart, "lateral", -0.13 * strain, rng)
        set_t(heart, "lateral", -0.32 * strain, rng)
        t = beat.repolarisation["t"]
        slow = t_wave(t.vector, onset=0.10, peak=0.74)
        beat.repolarisation["t"] = slow


def right_ventricular_hypertrophy(heart: Heart, rng: np.random.Generator) -> None:
    """R in V1 above S, axis to the right, deep S in V5 and V6, T negative in V1 to V3."""
    beat, subject = heart.beat, heart.subject
    size = subject.gain * rng.uniform(0.8, 1.4)
    if "free_wall" in beat.qrs:
        beat.qrs["free_wall"] = beat.qrs["free_wall"].scaled(0.35)
    beat.qrs["apex"] = beat.qrs["apex"].scaled(0.62)
    beat.qrs["right_ventricle"] = bump(
        0.50, 0.40, *(size * np.array([-0.62, 0.30, -0.72])), fall=0.42
    )
    set_axis(beat, subject.lead_vectors, rng.uniform(98, 142))
    # The criterion: R in V1 of 0.7 mV and more. Turning the axis changes it: twice.
    height = rng.uniform(0.85, 1.5)
    for _ in range(2):
        wanted = height - qrs_in_leads(beat, subject.lead_vectors)[6].max()
        if wanted <= 0:
            break
        right = beat.qrs["right_ventricle"]
        towards = np.array([-0.2, 0.0, -0.97])
        more = towards * wanted / heart.leads(towards)["V1"]
        beat.qrs["right_ventricle"] = right._replace(vector=right.vector + more)
        set_axis(beat, subject.lead_vectors, rng.uniform(98, 142))
    set_t(heart, "anteroseptal", -rng.uniform(0.08, 0.3), rng)
    set_st(heart, "anteroseptal", -rng.uniform(0.0, 0.09), rng)


def septal_hypertrophy(heart: Heart, rng: np.random.Generator) -> None:
    """Deep narrow Q in the lateral leads and a tall R in V1 and V2."""
    size = heart.subject.gain * rng.uniform(0.9, 1.25)
    septum = bump(0.20, 0.22, *(size * np.array([-0.62, -0.30, -0.72])), fall=0.20)
    heart.beat.qrs["septum"] = septum
    scale_qrs(heart, rng.uniform(1.0, 1.25))
    if rng.random() < 0.5:
        set_t(heart, "lateral", -rng.uniform(0.05, 0.35), rng)


def low_voltage(heart: Heart, rng: np.random.Generator) -> None:
    """No QRS above 0.5 mV in the limb leads, nor above 1 mV in the chest leads."""
    qrs = np.ptp(qrs_in_leads(heart.beat, heart.subject.lead_vectors), axis=1)
    limb = rng.uniform(0.26, 0.46) / qrs[:6].max()
    chest = rng.uniform(0.70, 0.97) / qrs[6:].max()
    factor = min(limb, chest, 1.0)
    scale_qrs(heart, factor)
    wave = heart.beat.repolarisation
    heart.beat.repolarisation = {k: b.scaled(0.25 + 0.6 * factor) for k, b in wave.items()}
    heart.p = {name: part.scaled(rng.uniform(0.6, 0.85)) for name, part in heart.p.items()}


def high_voltage(heart: Heart, rng: np.random.Generator) -> None:
    """High QRS without any other sign of hypertrophy."""
    qrs = qrs_in_leads(heart.beat, heart.subject.lead_vectors)
    target = rng.uniform(3.75, 4.0)
    scale_qrs(heart, float(np.clip(target / sokolow_lyon(qrs), 1.0, 2.6)))


def keep_within_normal_voltage(heart: Heart) -> None:
    """Bring the QRS of a healthy heart below hypertrophy and above low voltage."""
    qrs = qrs_in_leads(heart.beat, heart.subject.lead_vectors)
    high = sokolow_lyon(qrs)
    if high > 3.2:
        scale_qrs(heart, (2.9 + 0.3 * np.tanh(high - 3.2)) / high)
    limb = np.ptp(qrs[:6], axis=1).max()
    if limb < 0.62:
        scale_qrs(heart, 0.62 / limb)
