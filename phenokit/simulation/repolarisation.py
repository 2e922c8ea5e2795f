"""ST, T and QT that change as a whole: unspecific changes, electrolytes and drugs.

Criteria: Rautaharju, Surawicz & Gettes (2009), doi:10.1016/j.jacc.2008.12.014.
"""

import numpy as np

from phenokit.simulation.heart import Heart, bump, plateau, t_wave
from phenokit.simulation.territories import (
    TERRITORIES,
    direction_to,
    reading,
    set_st,
    set_t,
    shrink_t,
)


def unspecific_st_depression(heart: Heart, rng: np.random.Generator) -> None:
    """A slight ST depression in many leads, T upright."""
    set_st(heart, "diffuse", -rng.uniform(0.06, 0.13), rng)
    set_t(heart, "diffuse", rng.uniform(0.12, 0.3), rng)


def unspecific_st_change(heart: Heart, rng: np.random.Generator) -> None:
    """A slight ST shift of no territory, low T."""
    towards = rng.normal(0, 1, 3)
    st = heart.beat.repolarisation["st"]
    shift = rng.uniform(0.05, 0.09) * towards / np.linalg.norm(towards)
    heart.beat.repolarisation["st"] = st._replace(vector=shift)
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
    wave["t"] = wave["t"].scaled(rng.uniform(0.08, 0.24))
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
    direction = direction_to(TERRITORIES["diffuse"], rng)
    depth = rng.uniform(0.10, 0.24)
    unit = reading(heart, TERRITORIES["diffuse"], direction)
    wave["st"] = plateau(-0.25 * depth / unit * direction)
    wave["st_late"] = bump(0.36, 0.42, *(-depth / unit * direction), fall=0.40)
    wave["t"] = t_wave(wave["t"].vector * rng.uniform(0.25, 0.6), onset=0.55, peak=0.80)
    heart.beat.qtc = rng.uniform(0.345, 0.385)
    heart.pr = min(heart.pr + 0.02, 0.198) if heart.pr < 0.2 else heart.pr
