"""Depth electrodes of a simulated patient: shafts with contacts, their names and places."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

SHAFTS = (
    "LA", "LH", "LP", "LT", "LF", "LI", "LC", "LO",
    "RA", "RH", "RP", "RT", "RF", "RI", "RC", "RO",
)  # fmt: skip
"""Side and target: amygdala, hippocampus, parahippocampal, temporal, frontal, insula,
cingulate, orbitofrontal."""

SPACING = 3.5
"""Millimetres from contact to contact."""

FEWEST, MOST = 8, 128
"""Contacts of a patient."""


@dataclass(frozen=True)
class Electrodes:
    """Contacts in the order of their shafts, the deepest (number 1) first.

    Attributes
    ----------
    names
        Shaft and number: ``"LA1"``.
    shaft
        Position of each contact's shaft.
    position
        Millimetres: left to right, back to front, down to up.
    """

    names: tuple[str, ...]
    shaft: Int[np.ndarray, " channel"]
    position: Float[np.ndarray, "channel 3"]

    @property
    def distance(self) -> Float[np.ndarray, "channel channel"]:
        """Millimetres between contacts."""
        return np.linalg.norm(self.position[:, None] - self.position[None], axis=2)


def draw_electrodes(rng: np.random.Generator, *, n_channels: int) -> Electrodes:
    """Shafts of 4 to 16 contacts, mostly on one side.

    Raises
    ------
    ValueError
        If there are fewer than 8 or more than 128 contacts.

    Examples
    --------
    >>> draw_electrodes(np.random.default_rng(1), n_channels=8).names[:3]
    ('RO1', 'RO2', 'RO3')
    """
    if not FEWEST <= n_channels <= MOST:
        raise ValueError(f"{n_channels} channels; simulated are {FEWEST} to {MOST}")
    n_shafts = max(1, round(n_channels / rng.uniform(8.5, 13)))
    sizes = [len(part) for part in np.array_split(np.arange(n_channels), n_shafts)]
    first_side = rng.random() < 0.5
    side = ["L", "R"] if first_side else ["R", "L"]
    main, other = ([s for s in SHAFTS if s[0] == one] for one in side)
    n_main = min(len(main), max(1, round(0.7 * n_shafts)))
    chosen = [
        *rng.permutation(main)[:n_main].tolist(),
        *rng.permutation(other)[: n_shafts - n_main].tolist(),
    ]
    names, shafts, positions = [], [], []
    for k, (shaft, size) in enumerate(zip(sorted(chosen), sizes, strict=True)):
        outwards = np.array([-1.0 if shaft[0] == "L" else 1.0, 0.0, 0.0])
        tip = np.array([18.0, 0, 0]) * outwards + rng.normal(0, [4, 18, 12])
        direction = outwards + rng.normal(0, 0.15, 3)
        direction /= np.linalg.norm(direction)
        names += [f"{shaft}{number + 1}" for number in range(size)]
        shafts += [k] * size
        positions += [tip + SPACING * number * direction for number in range(size)]
    return Electrodes(tuple(names), np.array(shafts), np.array(positions))
