"""What diseases do to the simulated heart: one small function a condition.

`CONDITIONS` is the table: name, what a clinician calls it, the SCP codes that it means, the
slot that it occupies and the function that changes the draft of the heart. Two conditions
can be combined unless they claim the same slot or one hides the other (`contradiction`).
Sizes are drawn at random within what the criteria of the textbooks allow, and set where the
criterion looks: an ST elevation of 2 mm is measured in the leads of its territory, so that
it is 2 mm for every heart position and every electrode placement.

Criteria: Surawicz, Childers, Deal & Gettes (2009) for conduction,
doi:10.1016/j.jacc.2008.12.013; Hancock et al. (2009) for hypertrophy,
doi:10.1016/j.jacc.2008.12.015; Wagner et al. (2009) for ischaemia,
doi:10.1016/j.jacc.2008.12.016; Thygesen et al. (2018) for infarction,
doi:10.1161/CIR.0000000000000617.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from phenokit.simulation.heart import (
    Bump,
    Complex,
    Heart,
    bump,
    lead_rows,
    plateau,
    qrs_in_leads,
    set_axis,
    sokolow_lyon,
    t_wave,
    turn_heart,
    twelve_lead_vectors,
)

Slot = Literal[
    "rhythm", "ectopy", "av", "bundle", "fascicle", "atria", "ventricles", "infarct", "form",
    "repolarisation",
]  # fmt: skip


@dataclass(frozen=True)
class Condition:
    """One condition that can be simulated.

    Attributes
    ----------
    name
        Key in `CONDITIONS`.
    title
        What a clinician calls it.
    codes
        SCP codes that a recording with this condition always carries.
    slot
        Part of the heart that it occupies; also the order in which conditions take effect.
    change
        Alters the draft of the heart; ``None`` for a rhythm, which `rhythm` lays out in time.
    """

    name: str
    title: str
    codes: tuple[str, ...]
    slot: Slot
    change: Callable[[Heart, np.random.Generator], None] | None = None


class Territory(NamedTuple):
    """Where an infarct or an ischaemia lies: the dipole that points to it, and its leads.

    A posterior territory has no lead above it; `mirrored` leads see it upside down.
    """

    direction: tuple[float, float, float]
    leads: tuple[str, ...]
    mirrored: tuple[str, ...] = ()


TERRITORIES = {
    "anteroseptal": Territory((-0.30, 0.05, -0.95), ("V1", "V2", "V3")),
    "anterior": Territory((0.20, 0.05, -0.97), ("V2", "V3", "V4")),
    "anterolateral": Territory((0.75, -0.22, -0.60), ("I", "aVL", "V3", "V4", "V5", "V6")),
    "lateral": Territory((0.90, -0.42, 0.18), ("I", "aVL", "V5", "V6")),
    "inferior": Territory((-0.12, 0.98, 0.08), ("II", "III", "aVF")),
    "inferolateral": Territory((0.58, 0.76, 0.25), ("II", "III", "aVF", "V5", "V6")),
    "posterior": Territory((-0.05, 0.10, 0.99), (), ("V1", "V2", "V3")),
    "inferoposterior": Territory(
        (-0.15, 0.80, 0.58), ("II", "III", "aVF"), ("V1", "V2", "V3")
    ),
    "inferoposterolateral": Territory(
        (0.50, 0.68, 0.54), ("II", "III", "aVF", "V5", "V6"), ("V1", "V2", "V3")
    ),
    "diffuse": Territory((0.75, 0.62, -0.15), ("I", "II", "V4", "V5", "V6")),
}


# ---- sizes are set where a criterion looks ------------------------------------------


def _reading(heart: Heart, territory: Territory, vector: Float[np.ndarray, " 3"]) -> float:
    """Mean that a dipole writes in the leads of a territory, mirrored leads turned over."""
    leads = heart.leads(vector)
    values = [leads[lead] for lead in territory.leads]
    values += [-leads[lead] for lead in territory.mirrored]
    return float(np.mean(values))


def _towards(territory: Territory, rng: np.random.Generator) -> Float[np.ndarray, " 3"]:
    """Unit dipole to a point of the territory: no two infarcts lie at the same place."""
    direction = np.array(territory.direction) + rng.normal(0, 0.10, 3)
    return direction / np.linalg.norm(direction)


def _set_level(
    heart: Heart,
    part: str,
    territory: Territory,
    level: float,
    rng: np.random.Generator,
    *,
    otherwise: Bump,
) -> None:
    """Move ST or T until its mean in the leads of the territory is `level` (mV)."""
    present = heart.beat.repolarisation.get(part, otherwise)
    towards = _towards(territory, rng)
    missing = level - _reading(heart, territory, present.vector)
    step = missing / _reading(heart, territory, towards)
    heart.beat.repolarisation[part] = present._replace(
        vector=present.vector + step * towards
    )


def set_st(heart: Heart, territory: str, level: float, rng: np.random.Generator) -> None:
    """Set the ST level of a territory (mV, mean over its leads)."""
    place = TERRITORIES[territory]
    _set_level(heart, "st", place, level, rng, otherwise=plateau(np.zeros(3)))


def set_t(heart: Heart, territory: str, height: float, rng: np.random.Generator) -> None:
    """Set the height of T in a territory (mV, mean over its leads)."""
    place = TERRITORIES[territory]
    _set_level(heart, "t", place, height, rng, otherwise=t_wave(np.zeros(3)))


def shrink_t(heart: Heart, factor: float) -> None:
    """Scale T as a whole: an ill T loop is smaller, not only turned."""
    heart.beat.repolarisation["t"] = heart.beat.repolarisation["t"].scaled(factor)


def set_q(heart: Heart, territory: str, depth: float, rng: np.random.Generator) -> None:
    """Take the early forces away from a territory until it starts with a Q of `depth` mV."""
    place = TERRITORIES[territory]
    away = -_towards(place, rng)
    early = qrs_in_leads(heart.beat, heart.subject.lead_vectors)[:, 9:19].mean(1)
    seen = np.concatenate(
        [early[lead_rows(place.leads)], -early[lead_rows(place.mirrored)]]
    )
    necrosis = bump(0.24, 0.30, *away, fall=0.34)
    unit = -_reading(heart, place, away) * 0.87  # mean height of the bump in that window
    size = max(0.1, (float(seen.mean()) + depth) / unit)
    heart.beat.qrs["necrosis"] = necrosis.scaled(min(size, 1.6))


def scale_qrs(heart: Heart, factor: float) -> None:
    """Make the whole QRS higher or lower."""
    heart.beat.qrs = {name: part.scaled(factor) for name, part in heart.beat.qrs.items()}


def _widen(heart: Heart, low: float, high: float, rng: np.random.Generator) -> None:
    """Draw the QRS duration (s); QT grows by what the QRS takes more."""
    width = rng.uniform(low, high)
    heart.beat.qtc += max(0.0, width - heart.beat.qrs_duration) * 0.8
    heart.beat.qrs_duration = width


def _discordant(heart: Heart, share: float, rng: np.random.Generator) -> None:
    """ST and T against the net QRS, as after an abnormal sequence of depolarisation."""
    area = sum((b.rise + b.fall) * b.vector for b in heart.beat.qrs.values())
    area = np.asarray(area) * heart.beat.qrs_duration / 0.14
    st = -share * rng.uniform(0.08, 0.17) * area
    t = -share * rng.uniform(0.24, 0.40) * area + rng.normal(0, 0.02, 3)
    heart.beat.repolarisation = {"st": plateau(st), "t": t_wave(t, onset=0.16, peak=0.63)}


# ---- conduction ---------------------------------------------------------------------


def _right_bundle(heart: Heart, rng: np.random.Generator, *, complete: bool) -> None:
    """The right ventricle comes last: a late slow force to the right and the front."""
    _widen(heart, *((0.124, 0.162) if complete else (0.100, 0.116)), rng)
    beat, gain = heart.beat, heart.subject.gain
    beat.qrs["septum"] = beat.qrs["septum"]._replace(centre=0.12, rise=0.15, fall=0.15)
    # The left ventricle is done in its usual 80 ms, which is now the first part.
    squeeze = 0.085 / beat.qrs_duration if complete else 0.80
    for name in ("apex", "free_wall"):
        part = beat.qrs[name]
        beat.qrs[name] = part._replace(
            centre=part.centre * squeeze,
            rise=part.rise * squeeze,
            fall=part.fall * squeeze,
            vector=part.vector * np.array([1.0, 1.0, 0.62]),
        )
    del beat.qrs["base"]
    size = gain * (rng.uniform(0.55, 1.05) if complete else rng.uniform(0.26, 0.42))
    late = size * np.array([-0.72, rng.normal(0.0, 0.12), -0.74])
    centre = 0.68 if complete else 0.76
    beat.qrs["right_ventricle"] = bump(centre, 0.32 if complete else 0.24, *late, fall=0.36)
    t = beat.repolarisation["t"]
    against = np.array([0.18, 0.0, 0.28]) * size * (1.0 if complete else 0.35)
    beat.repolarisation["t"] = t._replace(vector=t.vector + against)
    st = beat.repolarisation["st"]
    beat.repolarisation["st"] = st._replace(vector=st.vector + 0.12 * against)


def right_bundle_branch_block(heart: Heart, rng: np.random.Generator) -> None:
    """Complete: QRS of 120 ms and more, rSR' in V1, broad S in I and V6, T against it."""
    _right_bundle(heart, rng, complete=True)


def incomplete_right_bundle_branch_block(heart: Heart, rng: np.random.Generator) -> None:
    """The same shape in less than 120 ms, with a small r'."""
    _right_bundle(heart, rng, complete=False)


def left_bundle_branch_block(heart: Heart, rng: np.random.Generator) -> None:
    """No septal Q; one slow notched force to the left and the back; ST and T against it."""
    _widen(heart, 0.126, 0.172, rng)
    gain = heart.subject.gain
    left = rng.uniform(0.85, 1.15) * gain
    notch = rng.uniform(0.24, 0.31)
    heart.beat.qrs = {
        "right_ventricle": bump(0.13, 0.16, *(gain * np.array([0.16, 0.14, -0.08]))),
        "septum": bump(0.36, notch, *(left * np.array([0.60, 0.27, 0.58])), fall=0.27),
        "free_wall": bump(0.62, 0.32, *(left * np.array([0.66, 0.18, 0.64])), fall=0.36),
    }
    turn_heart(heart.beat.qrs, about=1, degrees=rng.normal(0, 7))
    set_axis(heart.beat, heart.subject.lead_vectors, rng.uniform(-40, 55))
    _discordant(heart, 1.0, rng)


def incomplete_left_bundle_branch_block(heart: Heart, rng: np.random.Generator) -> None:
    """QRS of 105 to 118 ms, no septal Q, a slow upstroke to the left."""
    _widen(heart, 0.106, 0.118, rng)
    qrs = heart.beat.qrs
    qrs["septum"] = bump(0.20, 0.22, *(heart.subject.gain * np.array([0.34, 0.10, 0.16])))
    qrs["apex"] = qrs["apex"]._replace(centre=0.46, rise=0.32)
    qrs["free_wall"] = qrs["free_wall"]._replace(centre=0.64, fall=0.32)
    qrs["free_wall"] = qrs["free_wall"].scaled(1.2)
    del qrs["base"]
    t = heart.beat.repolarisation["t"]
    heart.beat.repolarisation["t"] = t.scaled(rng.uniform(0.3, 0.8))


def intraventricular_delay(heart: Heart, rng: np.random.Generator) -> None:
    """A wide QRS that is neither bundle branch block: slurred and notched all along."""
    _widen(heart, 0.114, 0.142, rng)
    qrs = heart.beat.qrs
    for name, part in qrs.items():
        qrs[name] = part._replace(vector=part.vector * np.array([0.9, 0.9, 0.85]))
    notch = rng.normal(0, 0.20, 3) * heart.subject.gain
    qrs["notch"] = bump(rng.uniform(0.5, 0.66), 0.14, *notch)
    qrs["late"] = bump(0.80, 0.24, *(0.30 * heart.subject.gain * rng.normal(0, 1, 3)))
    t = heart.beat.repolarisation["t"]
    heart.beat.repolarisation["t"] = t.scaled(rng.uniform(0.4, 0.9))


def left_anterior_fascicular_block(heart: Heart, rng: np.random.Generator) -> None:
    """First down and to the right, then up and to the left: axis of -45 degrees and beyond."""
    beat, gain = heart.beat, heart.subject.gain
    if beat.qrs_duration < 0.12:
        beat.qrs_duration = rng.uniform(0.092, 0.114)
    down = gain * np.array([-0.10, rng.uniform(0.26, 0.42), -0.16])
    beat.qrs["septum"] = bump(0.16, 0.18, *down)
    late = {name: beat.qrs[name] for name in ("apex", "free_wall")}
    size = rng.uniform(0.8, 1.0)
    late["apex"] = late["apex"]._replace(vector=late["apex"].vector * [0.85, 0.6, 1.0])
    late["free_wall"] = late["free_wall"].scaled(size)
    draft = Complex(late, beat.qrs_duration, {}, beat.qtc)
    set_axis(draft, heart.subject.lead_vectors, rng.uniform(-70, -52))
    beat.qrs |= draft.qrs
    if "base" in beat.qrs:
        beat.qrs["base"] = bump(0.78, 0.24, *(gain * np.array([-0.06, -0.34, 0.10])))


def left_posterior_fascicular_block(heart: Heart, rng: np.random.Generator) -> None:
    """First up and to the left, then down and to the right: axis of 100 degrees and more."""
    beat, gain = heart.beat, heart.subject.gain
    if beat.qrs_duration < 0.12:
        beat.qrs_duration = rng.uniform(0.090, 0.112)
    up = gain * np.array([0.24, -rng.uniform(0.20, 0.34), -0.14])
    beat.qrs["septum"] = bump(0.16, 0.18, *up)
    late = {name: beat.qrs[name] for name in ("apex", "free_wall")}
    draft = Complex(late, beat.qrs_duration, {}, beat.qtc)
    set_axis(draft, heart.subject.lead_vectors, rng.uniform(102, 122))
    beat.qrs |= draft.qrs
    t = beat.repolarisation["t"]
    t_down = np.array([0.05, 0.10, 0.0])
    beat.repolarisation["t"] = t._replace(vector=t.vector + t_down)


def pre_excitation(heart: Heart, rng: np.random.Generator) -> None:
    """Short PR, and a delta wave where the accessory pathway enters the ventricle."""
    beat, gain = heart.beat, heart.subject.gain
    heart.pr = rng.uniform(0.082, 0.114)
    _widen(heart, 0.118, 0.158, rng)
    pathway = [
        (0.20, 0.75, -0.62),  # left lateral: delta positive in V1
        (0.85, 0.20, 0.42),  # right free wall: negative in V1, positive in I
        (0.55, -0.72, -0.35),  # posteroseptal: negative in the inferior leads
        (0.75, 0.55, 0.10),  # anteroseptal
    ][rng.integers(4)]
    direction = np.array(pathway) + rng.normal(0, 0.10, 3)
    delta = gain * rng.uniform(0.42, 0.75) * direction / np.linalg.norm(direction)
    # The normal activation comes later and does less, as part of the muscle is spent.
    shift = 0.30
    for name, part in beat.qrs.items():
        beat.qrs[name] = part._replace(
            centre=shift + part.centre * (1 - shift),
            rise=part.rise * (1 - shift),
            fall=part.fall * (1 - shift),
        )
    beat.qrs["septum"] = beat.qrs["septum"].scaled(0.3)
    beat.qrs["delta"] = bump(0.42, 0.50, *delta, fall=0.34)
    t = beat.repolarisation["t"]
    against = -rng.uniform(0.25, 0.6) * delta
    beat.repolarisation["t"] = t._replace(vector=t.vector + against)
    beat.repolarisation["st"] = plateau(0.25 * against)


def paced_complex(heart: Heart, rng: np.random.Generator) -> Complex:
    """A ventricular complex paced from the apex of the right ventricle (or its outflow)."""
    gain = heart.subject.gain * rng.uniform(0.7, 1.0)
    apical = rng.random() < 0.75
    first = np.array([0.28, -0.70, 0.28] if apical else [0.30, 0.75, 0.35])
    second = np.array([0.20, -0.80, 0.72] if apical else [0.55, 0.45, 0.70])
    first, second = (gain * (v + rng.normal(0, 0.08, 3)) for v in (first, second))
    qrs = {"first": bump(0.30, 0.34, *first), "second": bump(0.62, 0.38, *second)}
    paced = Complex(qrs, rng.uniform(0.138, 0.182), {}, heart.beat.qtc + 0.05)
    stand_in = Heart(heart.subject, {}, 0.1, 0.15, paced, heart.rate)
    _discordant(stand_in, 0.9, rng)
    return paced


def ventricular_ectopic(heart: Heart, rng: np.random.Generator) -> Complex:
    """A complex from a focus in a ventricle: wide, tall, ST and T against it."""
    focus = [
        (0.25, 1.00, 0.45),  # right outflow tract: left bundle shape, axis down
        (0.75, -0.45, 0.75),  # right ventricular apex: left bundle shape, axis up
        (-0.50, 0.60, -0.75),  # left ventricle, base: right bundle shape, axis down
        (-0.25, -0.75, -0.70),  # left posterior fascicle: right bundle shape, axis up
    ][rng.integers(4)]
    size = heart.subject.gain * rng.uniform(0.9, 1.5)
    main = np.array(focus) + rng.normal(0, 0.15, 3)
    main *= size / np.linalg.norm(main)
    early = 0.6 * main + 0.2 * size * rng.normal(0, 1, 3)
    qrs = {"early": bump(0.30, 0.32, *early), "main": bump(0.60, 0.40, *main)}
    ectopic = Complex(qrs, rng.uniform(0.128, 0.175), {}, heart.beat.qtc + 0.03)
    stand_in = Heart(heart.subject, {}, 0.1, 0.15, ectopic, heart.rate)
    _discordant(stand_in, 1.1, rng)
    return ectopic


def first_degree_block(heart: Heart, rng: np.random.Generator) -> None:
    """PR above 200 ms."""
    heart.pr = rng.uniform(0.216, 0.32)


# ---- chambers -----------------------------------------------------------------------


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
    qrs = qrs_in_leads(beat, subject.lead_vectors)[6]
    # The criterion: R in V1 of 0.7 mV and more, and larger than S.
    wanted = rng.uniform(0.8, 1.5) - qrs.max()
    if wanted > 0:
        right = beat.qrs["right_ventricle"]
        towards = np.array([-0.2, 0.0, -0.97])
        more = towards * wanted / heart.leads(towards)["V1"]
        beat.qrs["right_ventricle"] = right._replace(vector=right.vector + more)
        set_axis(beat, subject.lead_vectors, rng.uniform(98, 142))
    set_t(heart, "anteroseptal", -rng.uniform(0.08, 0.3), rng)
    set_st(heart, "anteroseptal", -rng.uniform(0.0, 0.09), rng)


def septal_hypertrophy(heart: Heart, rng: np.random.Generator) -> None:
    """Deep narrow Q in the lateral leads and a tall R in V1 and V2."""
    size = rng.uniform(0.55, 0.95)
    septum = bump(0.20, 0.20, *(size * np.array([-0.62, -0.30, -0.72])), fall=0.20)
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
    target = rng.uniform(3.6, 3.9)
    scale_qrs(heart, float(np.clip(target / sokolow_lyon(qrs), 1.0, 2.6)))


# ---- infarction and ischaemia -------------------------------------------------------


def _acute(territory: str) -> Callable[[Heart, np.random.Generator], None]:
    def change(heart: Heart, rng: np.random.Generator) -> None:
        elevation = 0.14 + rng.gamma(2.0, 0.06)
        early = rng.random() < 0.6
        set_st(heart, territory, elevation, rng)
        # First T grows with the ST segment; hours later it turns and a Q appears.
        height = (
            rng.uniform(1.3, 2.2) * elevation + 0.15 if early else -rng.uniform(0.02, 0.2)
        )
        set_t(heart, territory, height, rng)
        set_q(
            heart,
            territory,
            rng.uniform(-0.15, 0.1) if early else rng.uniform(0.1, 0.4),
            rng,
        )

    return change


def _old(territory: str) -> Callable[[Heart, np.random.Generator], None]:
    def change(heart: Heart, rng: np.random.Generator) -> None:
        if territory == "posterior":
            lose_posterior_forces(heart, rng)
        else:
            set_q(heart, territory, rng.uniform(0.16, 0.45), rng)
        inverted = rng.random() < 0.6
        shrink_t(heart, 0.6)
        height = -rng.uniform(0.06, 0.3) if inverted else rng.uniform(0.0, 0.15)
        set_t(heart, territory, height, rng)
        if TERRITORIES[territory].mirrored and not TERRITORIES[territory].leads:
            # Behind the heart the Q shows as a tall R in front, the negative T as a tall T.
            set_t(heart, territory, -rng.uniform(0.25, 0.5), rng)

    return change


def lose_posterior_forces(heart: Heart, rng: np.random.Generator) -> None:
    """What would be a Q behind the heart: R in V2 broad and above S, R in V1 tall."""
    qrs = heart.beat.qrs
    if "free_wall" in qrs:
        forward = np.array([1.0, 1.0, rng.uniform(0.0, 0.3)])
        qrs["free_wall"] = qrs["free_wall"]._replace(vector=qrs["free_wall"].vector * forward)
    towards = np.array([-0.35, -0.05, -0.93]) + rng.normal(0, 0.06, 3)
    in_v1, in_v2 = qrs_in_leads(heart.beat, heart.subject.lead_vectors)[6:8]
    missing = max(rng.uniform(0.45, 0.8) - in_v1[12:34].max(), 0.1)
    missing = max(missing, rng.uniform(0.1, 0.4) - in_v2.min() - in_v2.max())
    size = missing / heart.leads(towards)["V1"]
    qrs["necrosis"] = bump(0.40, 0.40, *(size * towards))


def aneurysm(heart: Heart, rng: np.random.Generator) -> None:
    """An old anterior infarct whose ST segment never came down."""
    set_q(heart, "anterior", rng.uniform(0.3, 0.6), rng)
    set_st(heart, "anterior", rng.uniform(0.13, 0.26), rng)
    set_t(heart, "anterior", -rng.uniform(-0.05, 0.15), rng)


def _ischaemia(territory: str) -> Callable[[Heart, np.random.Generator], None]:
    """T symmetric and negative, ST a little low."""

    def change(heart: Heart, rng: np.random.Generator) -> None:
        set_st(heart, territory, -rng.uniform(0.03, 0.11), rng)
        shrink_t(heart, 0.5)
        height = -(0.10 + rng.gamma(2.0, 0.07))
        set_t(heart, territory, height, rng)
        t = heart.beat.repolarisation["t"]
        heart.beat.repolarisation["t"] = t_wave(t.vector, onset=0.34, peak=0.67)

    return change


def _subendocardial(territory: str) -> Callable[[Heart, np.random.Generator], None]:
    """ST level or falling, 1.5 mm low and more, T still upright or biphasic."""

    def change(heart: Heart, rng: np.random.Generator) -> None:
        depth = 0.15 + rng.gamma(2.0, 0.05)
        set_st(heart, territory, -depth, rng)
        set_t(heart, territory, rng.uniform(-0.05, 0.18), rng)

    return change


# ---- repolarisation -----------------------------------------------------------------


def unspecific_st_depression(heart: Heart, rng: np.random.Generator) -> None:
    """A slight ST depression in many leads, T upright."""
    set_st(heart, "diffuse", -rng.uniform(0.06, 0.13), rng)
    set_t(heart, "diffuse", rng.uniform(0.12, 0.3), rng)


def unspecific_st_change(heart: Heart, rng: np.random.Generator) -> None:
    """A slight ST shift of no territory, low T."""
    towards = rng.normal(0, 1, 3)
    st = heart.beat.repolarisation["st"]
    shift = rng.uniform(0.05, 0.09) * towards / np.linalg.norm(towards)
    heart.beat.repolarisation["st"] = st._replace(vector=st.vector + shift)
    set_t(heart, "diffuse", rng.uniform(0.06, 0.18), rng)


def nondiagnostic_t(heart: Heart, rng: np.random.Generator) -> None:
    """T flat or slightly negative in some leads, of no territory."""
    wave = heart.beat.repolarisation
    wave["t"] = t_wave(0.2 * wave["t"].vector + rng.normal(0, 0.03, 3))
    set_t(
        heart,
        str(rng.choice(["lateral", "inferior", "diffuse"])),
        rng.uniform(-0.08, 0.03),
        rng,
    )


def low_t(heart: Heart, rng: np.random.Generator) -> None:
    """T upright but lower than a tenth of R."""
    share = rng.uniform(0.10, 0.26)
    heart.beat.repolarisation["t"] = heart.beat.repolarisation["t"].scaled(share)
    heart.beat.repolarisation.pop("u", None)


def inverted_t(heart: Heart, rng: np.random.Generator) -> None:
    """T negative in most leads, ST on the line."""
    shrink_t(heart, 0.5)
    set_t(heart, "diffuse", -(0.12 + rng.gamma(2.0, 0.06)), rng)


def long_qt(heart: Heart, rng: np.random.Generator) -> None:
    """QTc of 480 ms and more; T broad, or late after a long ST segment."""
    heart.beat.qtc = rng.uniform(0.485, 0.570)
    vector = heart.beat.repolarisation["t"].vector
    late = rng.random() < 0.4
    onset, peak = (0.50, 0.78) if late else (0.14, 0.64)
    heart.beat.repolarisation["t"] = t_wave(
        vector * rng.uniform(0.7, 1.2), onset=onset, peak=peak
    )
    heart.beat.repolarisation.pop("u", None)


def hyperkalaemia(heart: Heart, rng: np.random.Generator) -> None:
    """Tall narrow pointed T, low wide P, long PR; when severe, a wide QRS."""
    severity = rng.uniform(0.2, 1.0)
    vector = heart.beat.repolarisation["t"].vector
    size = (0.65 + 0.5 * rng.random()) / heart.leads(vector)["V4"]
    heart.beat.repolarisation["t"] = t_wave(
        vector * max(size, 1.5), onset=0.47, peak=0.72, offset=0.97
    )
    heart.beat.repolarisation.pop("u", None)
    heart.p = {name: part.scaled(1 - 0.75 * severity) for name, part in heart.p.items()}
    heart.p_duration *= 1 + 0.3 * severity
    heart.pr = max(heart.pr, 0.17) + 0.05 * severity
    if heart.beat.qrs_duration < 0.12:
        heart.beat.qrs_duration += 0.05 * severity**2


def hypokalaemia(heart: Heart, rng: np.random.Generator) -> None:
    """Low ST, flat T, and a U wave taller than T."""
    wave = heart.beat.repolarisation
    direction = np.array([0.55, 0.45, -0.45]) + rng.normal(0, 0.08, 3)
    set_st(heart, "diffuse", -rng.uniform(0.05, 0.13), rng)
    wave["t"] = wave["t"].scaled(rng.uniform(0.1, 0.4))
    size = rng.uniform(0.18, 0.34) / heart.leads(direction)["V3"]
    wave["u"] = bump(1.26, 0.44, *(size * direction))


def hypocalcaemia(heart: Heart, rng: np.random.Generator) -> None:
    """A long level ST segment, then a T of normal width: QT is long."""
    heart.beat.qtc = rng.uniform(0.475, 0.550)
    vector = heart.beat.repolarisation["t"].vector
    heart.beat.repolarisation["t"] = t_wave(vector, onset=0.56, peak=0.82)


def hypercalcaemia(heart: Heart, rng: np.random.Generator) -> None:
    """T follows the QRS at once: QTc below 350 ms."""
    heart.beat.qtc = rng.uniform(0.300, 0.342)
    vector = heart.beat.repolarisation["t"].vector
    heart.beat.repolarisation["t"] = t_wave(vector, onset=0.04, peak=0.58)


def digitalis(heart: Heart, rng: np.random.Generator) -> None:
    """A sagging ST segment, a low or biphasic T, and a short QT."""
    wave = heart.beat.repolarisation
    direction = _towards(TERRITORIES["diffuse"], rng)
    depth = rng.uniform(0.10, 0.24)
    unit = _reading(heart, TERRITORIES["diffuse"], direction)
    wave["st"] = plateau(-0.25 * depth / unit * direction)
    wave["st_late"] = bump(0.36, 0.42, *(-depth / unit * direction), fall=0.40)
    wave["t"] = t_wave(wave["t"].vector * rng.uniform(0.25, 0.6), onset=0.55, peak=0.80)
    heart.beat.qtc = rng.uniform(0.345, 0.385)
    heart.pr = min(heart.pr + 0.02, 0.198) if heart.pr < 0.2 else heart.pr


def fragmented_qrs(heart: Heart, rng: np.random.Generator) -> None:
    """Extra notches in a QRS of normal width."""
    qrs = heart.beat.qrs
    for number, centre in enumerate(rng.uniform([0.34, 0.56], [0.46, 0.76])):
        notch = rng.normal(0, 1, 3)
        notch *= rng.uniform(0.32, 0.5) * heart.subject.gain / np.linalg.norm(notch)
        qrs[f"notch{number}"] = bump(centre, 0.105, *notch)


# ---- the table ----------------------------------------------------------------------

_TABLE = (
    Condition("normal", "Normal ECG", ("NORM",), "form"),
    Condition("sinus_tachycardia", "Sinus tachycardia", ("STACH",), "rhythm"),
    Condition("sinus_bradycardia", "Sinus bradycardia", ("SBRAD",), "rhythm"),
    Condition("sinus_arrhythmia", "Sinus arrhythmia", ("SARRH",), "rhythm"),
    Condition("atrial_fibrillation", "Atrial fibrillation", ("AFIB",), "rhythm"),
    Condition("atrial_flutter", "Atrial flutter", ("AFLT",), "rhythm"),
    Condition("wandering_pacemaker", "Wandering atrial pacemaker", ("SVARR",), "rhythm"),
    Condition("supraventricular_tachycardia", "Supraventricular tachycardia", ("SVTAC",), "rhythm"),
    Condition("paroxysmal_tachycardia", "Paroxysmal supraventricular tachycardia", ("PSVT",), "rhythm"),
    Condition("second_degree_mobitz_1", "AV block II, Wenckebach", ("2AVB",), "rhythm"),
    Condition("second_degree_mobitz_2", "AV block II, Mobitz type II", ("2AVB",), "rhythm"),
    Condition("second_degree_2_to_1", "AV block II, 2:1", ("2AVB",), "rhythm"),
    Condition("third_degree_block", "AV block III", ("3AVB",), "rhythm"),
    Condition("pacing", "Paced rhythm", ("PACE",), "rhythm"),
    Condition("first_degree_block", "AV block I", ("1AVB", "LPR"), "av", first_degree_block),
    Condition("premature_atrial", "Premature atrial complexes", ("PAC",), "ectopy"),
    Condition("premature_ventricular", "Premature ventricular complexes", ("PVC",), "ectopy"),
    Condition("bigeminy", "Ventricular bigeminy", ("BIGU", "PVC"), "ectopy"),
    Condition("trigeminy", "Ventricular trigeminy", ("TRIGU", "PVC"), "ectopy"),
    Condition("right_bundle_branch_block", "Complete right bundle branch block", ("CRBBB",), "bundle", right_bundle_branch_block),
    Condition("left_bundle_branch_block", "Complete left bundle branch block", ("CLBBB",), "bundle", left_bundle_branch_block),
    Condition("incomplete_right_bundle_branch_block", "Incomplete right bundle branch block", ("IRBBB",), "bundle", incomplete_right_bundle_branch_block),
    Condition("incomplete_left_bundle_branch_block", "Incomplete left bundle branch block", ("ILBBB",), "bundle", incomplete_left_bundle_branch_block),
    Condition("intraventricular_delay", "Intraventricular conduction delay", ("IVCD",), "bundle", intraventricular_delay),
    Condition("pre_excitation", "Wolff-Parkinson-White pattern", ("WPW",), "bundle", pre_excitation),
    Condition("left_anterior_fascicular_block", "Left anterior fascicular block", ("LAFB",), "fascicle", left_anterior_fascicular_block),
    Condition("left_posterior_fascicular_block", "Left posterior fascicular block", ("LPFB",), "fascicle", left_posterior_fascicular_block),
    Condition("left_atrial_enlargement", "Left atrial enlargement", ("LAO/LAE",), "atria", left_atrial_enlargement),
    Condition("right_atrial_enlargement", "Right atrial enlargement", ("RAO/RAE",), "atria", right_atrial_enlargement),
    Condition("left_ventricular_hypertrophy", "Left ventricular hypertrophy", ("LVH",), "ventricles", left_ventricular_hypertrophy),
    Condition("right_ventricular_hypertrophy", "Right ventricular hypertrophy", ("RVH",), "ventricles", right_ventricular_hypertrophy),
    Condition("septal_hypertrophy", "Septal hypertrophy", ("SEHYP",), "ventricles", septal_hypertrophy),
    Condition("low_voltage", "Low QRS voltage", ("LVOLT",), "ventricles", low_voltage),
    Condition("high_voltage", "High QRS voltage", ("HVOLT",), "ventricles", high_voltage),
    Condition("acute_anterior_mi", "Acute anterior infarction", ("AMI", "STE_"), "infarct", _acute("anterior")),
    Condition("acute_anteroseptal_mi", "Acute anteroseptal infarction", ("ASMI", "STE_"), "infarct", _acute("anteroseptal")),
    Condition("acute_anterolateral_mi", "Acute anterolateral infarction", ("ALMI", "STE_"), "infarct", _acute("anterolateral")),
    Condition("acute_lateral_mi", "Acute lateral infarction", ("LMI", "STE_"), "infarct", _acute("lateral")),
    Condition("acute_inferior_mi", "Acute inferior infarction", ("IMI", "STE_"), "infarct", _acute("inferior")),
    Condition("acute_inferolateral_mi", "Acute inferolateral infarction", ("ILMI", "STE_"), "infarct", _acute("inferolateral")),
    Condition("acute_posterior_mi", "Acute posterior infarction", ("PMI", "STD_"), "infarct", _acute("posterior")),
    Condition("old_anterior_mi", "Old anterior infarction", ("AMI", "QWAVE"), "infarct", _old("anterior")),
    Condition("old_anteroseptal_mi", "Old anteroseptal infarction", ("ASMI", "QWAVE"), "infarct", _old("anteroseptal")),
    Condition("old_anterolateral_mi", "Old anterolateral infarction", ("ALMI", "QWAVE"), "infarct", _old("anterolateral")),
    Condition("old_lateral_mi", "Old lateral infarction", ("LMI", "QWAVE"), "infarct", _old("lateral")),
    Condition("old_inferior_mi", "Old inferior infarction", ("IMI", "QWAVE"), "infarct", _old("inferior")),
    Condition("old_inferolateral_mi", "Old inferolateral infarction", ("ILMI", "QWAVE"), "infarct", _old("inferolateral")),
    Condition("old_posterior_mi", "Old posterior infarction", ("PMI",), "infarct", _old("posterior")),
    Condition("old_inferoposterior_mi", "Old inferoposterior infarction", ("IPMI", "QWAVE"), "infarct", _old("inferoposterior")),
    Condition("old_inferoposterolateral_mi", "Old inferoposterolateral infarction", ("IPLMI", "QWAVE"), "infarct", _old("inferoposterolateral")),
    Condition("aneurysm", "Ventricular aneurysm", ("ANEUR", "AMI", "QWAVE"), "infarct", aneurysm),
    Condition("ischaemia_anterior", "Anterior ischaemia", ("ISCAN",), "repolarisation", _ischaemia("anterior")),
    Condition("ischaemia_anteroseptal", "Anteroseptal ischaemia", ("ISCAS",), "repolarisation", _ischaemia("anteroseptal")),
    Condition("ischaemia_anterolateral", "Anterolateral ischaemia", ("ISCAL",), "repolarisation", _ischaemia("anterolateral")),
    Condition("ischaemia_lateral", "Lateral ischaemia", ("ISCLA",), "repolarisation", _ischaemia("lateral")),
    Condition("ischaemia_inferior", "Inferior ischaemia", ("ISCIN",), "repolarisation", _ischaemia("inferior")),
    Condition("ischaemia_inferolateral", "Inferolateral ischaemia", ("ISCIL",), "repolarisation", _ischaemia("inferolateral")),
    Condition("ischaemia_unspecific", "Ischaemic ST-T change of no territory", ("ISC_",), "repolarisation", _ischaemia("diffuse")),
    Condition("injury_anteroseptal", "Subendocardial injury, anteroseptal", ("INJAS",), "repolarisation", _subendocardial("anteroseptal")),
    Condition("injury_anterolateral", "Subendocardial injury, anterolateral", ("INJAL",), "repolarisation", _subendocardial("anterolateral")),
    Condition("injury_lateral", "Subendocardial injury, lateral", ("INJLA",), "repolarisation", _subendocardial("lateral")),
    Condition("injury_inferior", "Subendocardial injury, inferior", ("INJIN",), "repolarisation", _subendocardial("inferior")),
    Condition("injury_inferolateral", "Subendocardial injury, inferolateral", ("INJIL",), "repolarisation", _subendocardial("inferolateral")),
    Condition("unspecific_st_depression", "Unspecific ST depression", ("STD_",), "repolarisation", unspecific_st_depression),
    Condition("unspecific_st_change", "Unspecific ST change", ("NST_",), "repolarisation", unspecific_st_change),
    Condition("nondiagnostic_t", "Non-diagnostic T abnormality", ("NDT",), "repolarisation", nondiagnostic_t),
    Condition("low_t", "Low T waves", ("LOWT", "NT_"), "repolarisation", low_t),
    Condition("inverted_t", "Inverted T waves", ("INVT", "TAB_"), "repolarisation", inverted_t),
    Condition("long_qt", "Long QT", ("LNGQT",), "repolarisation", long_qt),
    Condition("hyperkalaemia", "Hyperkalaemia", ("EL",), "repolarisation", hyperkalaemia),
    Condition("hypokalaemia", "Hypokalaemia", ("EL",), "repolarisation", hypokalaemia),
    Condition("hypocalcaemia", "Hypocalcaemia", ("EL", "LNGQT"), "repolarisation", hypocalcaemia),
    Condition("hypercalcaemia", "Hypercalcaemia", ("EL",), "repolarisation", hypercalcaemia),
    Condition("digitalis", "Digitalis effect", ("DIG",), "repolarisation", digitalis),
    Condition("fragmented_qrs", "Fragmented QRS", ("ABQRS",), "form", fragmented_qrs),
)  # fmt: skip

CONDITIONS: dict[str, Condition] = {condition.name: condition for condition in _TABLE}
"""Every condition by name; `simulate_ecg` takes the names."""

_ORDER: tuple[Slot, ...] = (
    "bundle", "fascicle", "ventricles", "infarct", "form", "repolarisation", "atria", "av",
    "ectopy", "rhythm",
)  # fmt: skip

# A ventricle that is activated the wrong way round shows none of these for certain.
_HIDDEN: tuple[Slot, ...] = ("fascicle", "ventricles", "infarct", "repolarisation", "form")
_HIDES: dict[str, tuple[Slot, ...]] = {
    "left_bundle_branch_block": _HIDDEN,
    "pre_excitation": (*_HIDDEN, "av"),
    "pacing": (*_HIDDEN, "av", "bundle", "ectopy", "atria"),
    "right_bundle_branch_block": ("ventricles",),
    "intraventricular_delay": ("fascicle",),
    "incomplete_left_bundle_branch_block": ("fascicle", "infarct"),
    "incomplete_right_bundle_branch_block": ("ventricles",),
    "atrial_fibrillation": ("av", "atria"),
    "atrial_flutter": ("av", "atria", "ectopy"),
    "wandering_pacemaker": ("av", "atria", "ectopy"),
    "supraventricular_tachycardia": ("av", "atria", "ectopy"),
    "paroxysmal_tachycardia": ("av", "atria", "ectopy"),
    "second_degree_mobitz_1": ("av", "ectopy"),
    "second_degree_mobitz_2": ("av", "ectopy"),
    "second_degree_2_to_1": ("av", "ectopy"),
    "third_degree_block": ("av", "ectopy"),
    "sinus_arrhythmia": ("ectopy",),
    "digitalis": ("ventricles",),
    "left_ventricular_hypertrophy": ("infarct",),
    "right_ventricular_hypertrophy": ("fascicle", "infarct"),
    "septal_hypertrophy": ("fascicle", "infarct"),
}
_HIDES_ONE = {
    # No P before the beat: nothing that is premature by its P can be seen.
    ("atrial_fibrillation", "premature_atrial"),
    ("supraventricular_tachycardia", "pre_excitation"),
    ("third_degree_block", "pre_excitation"),
    # These set a T wave that the infarct's own T would take away.
    ("sinus_tachycardia", "hypokalaemia"),
}
_SHARED_SLOTS = ("atria", "ectopy")
"""Both atria can be large, and both kinds of premature beats occur in one recording."""


def contradiction(names: Sequence[str]) -> str | None:
    """Why these conditions cannot stand in one recording; ``None`` where they can.

    Examples
    --------
    >>> contradiction(["atrial_fibrillation", "right_bundle_branch_block"])
    >>> contradiction(["atrial_fibrillation", "atrial_flutter"])
    'atrial_fibrillation and atrial_flutter are both of the rhythm'
    """
    for position, first in enumerate(names):
        for second in names[position + 1 :]:
            reason = _pair_contradiction(first, second)
            if reason is not None:
                return reason
    return None


def _pair_contradiction(first: str, second: str) -> str | None:
    if first == second:
        return f"{first} is named twice"
    for one, other in ((first, second), (second, first)):
        if one == "normal":
            return f"normal stands alone, not with {other}"
        if CONDITIONS[other].slot in _HIDES.get(one, ()) or (one, other) in _HIDES_ONE:
            return f"{one} hides {other}"
    slot = CONDITIONS[first].slot
    if {first, second} in ({"bigeminy", "trigeminy"}, *_REGULAR_ECTOPY):
        return f"{first} and {second} exclude each other"
    if slot == CONDITIONS[second].slot and slot not in _SHARED_SLOTS:
        return f"{first} and {second} are both of the {slot}"
    return None


_REGULAR_ECTOPY = tuple(
    {pattern, single}
    for pattern in ("bigeminy", "trigeminy")
    for single in ("premature_atrial", "premature_ventricular")
)


def in_order(names: Sequence[str]) -> list[Condition]:
    """The conditions in the order in which they take effect."""
    return sorted((CONDITIONS[name] for name in names), key=lambda c: _ORDER.index(c.slot))


def keep_within_normal_voltage(heart: Heart) -> None:
    """Bring the QRS of a healthy heart below the criteria of hypertrophy, above low voltage."""
    qrs = qrs_in_leads(heart.beat, heart.subject.lead_vectors)
    high = sokolow_lyon(qrs)
    if high > 3.2:
        scale_qrs(heart, (2.9 + 0.3 * np.tanh(high - 3.2)) / high)
    limb = np.ptp(qrs[:6], axis=1).max()
    if limb < 0.62:
        scale_qrs(heart, 0.62 / limb)


def unit_vectors(heart: Heart) -> Float[np.ndarray, "12 3"]:
    """Lead vectors of the twelve leads of this subject."""
    return twelve_lead_vectors(heart.subject.lead_vectors)
