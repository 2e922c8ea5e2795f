"""Infarction, old and acute, and ischaemia, by territory.

Criteria: Wagner et al. (2009), doi:10.1016/j.jacc.2008.12.016; Thygesen et al. (2018),
doi:10.1161/CIR.0000000000000617.
"""

from collections.abc import Callable

import numpy as np

from phenokit.simulation.heart import Heart, bump, qrs_in_leads, t_wave
from phenokit.simulation.territories import (
    TERRITORIES,
    set_q,
    set_st,
    set_t,
    shrink_t,
)


def acute_infarct(territory: str) -> Callable[[Heart, np.random.Generator], None]:
    """ST up over the territory and down on the other side; T tall or already turned."""

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


def old_infarct(territory: str) -> Callable[[Heart, np.random.Generator], None]:
    """Q over the territory, T flat or negative."""

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
        qrs["free_wall"] = qrs["free_wall"]._replace(
            vector=qrs["free_wall"].vector * forward
        )
    towards = np.array([-0.35, -0.05, -0.93]) + rng.normal(0, 0.06, 3)
    in_v1, in_v2 = qrs_in_leads(heart.beat, heart.subject.lead_vectors)[6:8]
    missing = max(rng.uniform(0.45, 0.8) - in_v1[12:34].max(), 0.1)
    missing = max(missing, rng.uniform(0.2, 0.45) - in_v2.min() - in_v2.max())
    size = missing / heart.leads(towards)["V1"]
    qrs["necrosis"] = bump(0.40, 0.40, *(size * towards))


def aneurysm(heart: Heart, rng: np.random.Generator) -> None:
    """An old anterior infarct whose ST segment never came down."""
    set_q(heart, "anterior", rng.uniform(0.3, 0.6), rng)
    set_st(heart, "anterior", rng.uniform(0.13, 0.26), rng)
    set_t(heart, "anterior", -rng.uniform(-0.05, 0.15), rng)


def ischaemia(territory: str) -> Callable[[Heart, np.random.Generator], None]:
    """T symmetric and negative, ST a little low."""

    def change(heart: Heart, rng: np.random.Generator) -> None:
        set_st(heart, territory, -rng.uniform(0.03, 0.11), rng)
        shrink_t(heart, 0.5)
        height = -(0.10 + rng.gamma(2.0, 0.07))
        set_t(heart, territory, height, rng)
        t = heart.beat.repolarisation["t"]
        heart.beat.repolarisation["t"] = t_wave(t.vector, onset=0.34, peak=0.67)

    return change


def subendocardial_injury(territory: str) -> Callable[[Heart, np.random.Generator], None]:
    """ST level or falling, 1.5 mm low and more, T still upright or biphasic."""

    def change(heart: Heart, rng: np.random.Generator) -> None:
        depth = 0.15 + rng.gamma(2.0, 0.05)
        set_st(heart, territory, -depth, rng)
        set_t(heart, territory, rng.uniform(-0.05, 0.18), rng)

    return change
