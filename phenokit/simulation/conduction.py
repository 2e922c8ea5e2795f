"""Ventricles that are activated by another way than usual.

Criteria: Surawicz, Childers, Deal & Gettes (2009), doi:10.1016/j.jacc.2008.12.013.
"""

import numpy as np

from phenokit.simulation.heart import (
    Complex,
    Heart,
    bump,
    plateau,
    set_axis,
    t_wave,
    turn_heart,
)


def widen(heart: Heart, low: float, high: float, rng: np.random.Generator) -> None:
    """Draw the QRS duration (s); QT grows by what the QRS takes more."""
    width = rng.uniform(low, high)
    heart.beat.qtc += max(0.0, width - heart.beat.qrs_duration) * 0.8
    heart.beat.qrs_duration = width


def oppose_repolarisation(heart: Heart, share: float, rng: np.random.Generator) -> None:
    """ST and T against the net QRS, as after an abnormal sequence of depolarisation."""
    area = sum((b.rise + b.fall) * b.vector for b in heart.beat.qrs.values())
    area = np.asarray(area) * heart.beat.qrs_duration / 0.14
    st = -share * rng.uniform(0.08, 0.17) * area
    t = -share * rng.uniform(0.24, 0.40) * area + rng.normal(0, 0.02, 3)
    heart.beat.repolarisation = {"st": plateau(st), "t": t_wave(t, onset=0.22, peak=0.64)}


def _right_bundle(heart: Heart, rng: np.random.Generator, *, complete: bool) -> None:
    """The right ventricle comes last: a late slow force to the right and the front."""
    widen(heart, *((0.124, 0.162) if complete else (0.100, 0.116)), rng)
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
    widen(heart, 0.126, 0.172, rng)
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
    oppose_repolarisation(heart, 1.0, rng)


def incomplete_left_bundle_branch_block(heart: Heart, rng: np.random.Generator) -> None:
    """QRS of 105 to 118 ms, no septal Q, a slow upstroke to the left."""
    widen(heart, 0.106, 0.118, rng)
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
    widen(heart, 0.114, 0.142, rng)
    qrs = heart.beat.qrs
    for name, part in qrs.items():
        qrs[name] = part._replace(vector=part.vector * np.array([0.9, 0.9, 0.85]))
    notch = rng.normal(0, 0.20, 3) * heart.subject.gain
    qrs["notch"] = bump(rng.uniform(0.5, 0.66), 0.14, *notch)
    qrs["late"] = bump(0.80, 0.24, *(0.30 * heart.subject.gain * rng.normal(0, 1, 3)))
    t = heart.beat.repolarisation["t"]
    heart.beat.repolarisation["t"] = t.scaled(rng.uniform(0.4, 0.9))


def fragmented_qrs(heart: Heart, rng: np.random.Generator) -> None:
    """Extra notches in a QRS of normal width."""
    qrs = heart.beat.qrs
    for number, centre in enumerate(rng.uniform([0.34, 0.56], [0.46, 0.76])):
        notch = rng.normal(0, 1, 3)
        notch *= rng.uniform(0.32, 0.5) * heart.subject.gain / np.linalg.norm(notch)
        qrs[f"notch{number}"] = bump(centre, 0.105, *notch)


def left_anterior_fascicular_block(heart: Heart, rng: np.random.Generator) -> None:
    """First down and to the right, then up and to the left: axis beyond -45 degrees."""
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
    """First up and to the left, then down and to the right: axis beyond 100 degrees."""
    beat, gain = heart.beat, heart.subject.gain
    if beat.qrs_duration < 0.12:
        beat.qrs_duration = rng.uniform(0.090, 0.112)
    up = gain * np.array([0.32, -rng.uniform(0.32, 0.48), -0.14])
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
    widen(heart, 0.118, 0.158, rng)
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
    oppose_repolarisation(stand_in, 0.9, rng)
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
    oppose_repolarisation(stand_in, 1.1, rng)
    return ectopic


def first_degree_block(heart: Heart, rng: np.random.Generator) -> None:
    """PR above 200 ms."""
    heart.pr = rng.uniform(0.216, 0.32)
