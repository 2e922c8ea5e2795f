"""Where an infarct or an ischaemia lies, and how its size is set where a criterion looks.

An ST elevation of 2 mm is measured in the leads of its territory, so that it is 2 mm for
every heart position and every electrode placement.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from phenokit.simulation.heart import (
    Bump,
    Heart,
    bump,
    lead_rows,
    plateau,
    qrs_in_leads,
    t_wave,
)


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


def reading(heart: Heart, territory: Territory, vector: Float[np.ndarray, " 3"]) -> float:
    """Mean that a dipole writes in the leads of a territory, mirrored leads turned over."""
    leads = heart.leads(vector)
    values = [leads[lead] for lead in territory.leads]
    values += [-leads[lead] for lead in territory.mirrored]
    return float(np.mean(values))


def direction_to(territory: Territory, rng: np.random.Generator) -> Float[np.ndarray, " 3"]:
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
    towards = direction_to(territory, rng)
    missing = level - reading(heart, territory, present.vector)
    step = missing / reading(heart, territory, towards)
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
    """Take early forces away from a territory until it starts with a Q of `depth` mV."""
    place = TERRITORIES[territory]
    away = -direction_to(place, rng)
    early = qrs_in_leads(heart.beat, heart.subject.lead_vectors)[:, 8:22].mean(1)
    seen = np.concatenate(
        [early[lead_rows(place.leads)], -early[lead_rows(place.mirrored)]]
    )
    necrosis = bump(0.24, 0.30, *away, fall=0.34)
    unit = -reading(heart, place, away) * 0.84  # mean height of the bump in that window
    size = max(0.1, (float(seen.mean()) + depth) / unit)
    heart.beat.qrs["necrosis"] = necrosis.scaled(min(size, 2.4))
