"""A network of Epileptors: seizures that begin, spread and end by themselves.

The node is that of Jirsa et al. (2014, doi:10.1093/brain/awu133), the coupling of its slow
variable that of Proix et al. (2014, doi:10.1523/JNEUROSCI.1105-14.2014):

    x1' = y1 - f1 - z + 3.1               y1' = 1 - 5 x1^2 - y1
    x2' = -y2 + x2 - x2^3 + 0.45 + 2 g - 0.3 (z - 3.5)
    y2' = (f2 - y2) / 10                  g' = -0.01 (g - 0.1 x1)
    z'  = (4 (x1 - x0) - z - K sum_j w_ij (x1_j - x1_i)) / tau0
    f1  = x1^3 - 3 x1^2 if x1 < 0, else (x2 - 0.6 (z - 4)^2) x1
    f2  = 0 if x2 < -0.25, else 6 (x2 + 0.25)

The signal is x2 - x1; a node is in seizure while x1 > 0 comes about. From x0 of about -2.05
upwards a node seizes again and again, for half of the time; below it rests, unless its
neighbours push it. So a seizure is made by raising x0 of the onset zone for a while.

The fast variables take Euler steps of at most 0.05 units. z and g, more than a hundred
times slower, and the noise advance once a sample of the output, half a unit or so.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32

REST = -2.2
"""Excitability x0 of the onset zone between seizures."""

SEIZING = -1.6
"""Excitability to which the onset zone is raised."""

TAU = 2857.0
"""Time constant of z in the published model, in units of its time."""

LONGEST_STEP = 0.05


@dataclass(frozen=True)
class Ramps:
    """When the excitability of which nodes is raised, for several episodes at once.

    Attributes
    ----------
    rest, raised
        x0 of each node, before and after, and in between.
    begin, end
        Of the raised time of each episode, in units of model time.
    """

    rest: Float[np.ndarray, "episode node"]
    raised: Float[np.ndarray, "episode node"]
    begin: Float[np.ndarray, " episode"]
    end: Float[np.ndarray, " episode"]

    def at(self, time: float) -> Float[np.ndarray, "episode node"]:
        """x0 at a time."""
        is_raised = (self.begin <= time) & (time < self.end)
        return np.where(is_raised[:, None], self.raised, self.rest)


def run_epileptors(
    ramps: Ramps,
    coupling: Float[np.ndarray, "node node"],
    *,
    rng: np.random.Generator,
    n_samples: int,
    units_per_sample: float,
    tau: float = TAU,
    strength: float = 1.0,
    noise: float = 0.02,
) -> tuple[
    Float32[np.ndarray, "episode node sample"], Float32[np.ndarray, "episode node sample"]
]:
    """Signal and x1 of every node, from rest, for several episodes at once.

    Parameters
    ----------
    ramps
        x0 of the nodes over time.
    coupling
        w_ij: how much node j pulls at node i; its diagonal does not matter.
    rng
        Of the noise.
    n_samples, units_per_sample
        Length of the output, and model time from one sample to the next.
    tau
        tau0: seizures and the spread from node to node last in proportion to it.
    strength
        K.
    noise
        Standard deviation of the noise of x2 and y2 in a unit of time.

    Returns
    -------
    tuple of np.ndarray
        x2 - x1, and x1.
    """
    steps = int(np.ceil(units_per_sample / LONGEST_STEP))
    step = units_per_sample / steps
    pull = coupling.sum(axis=1)
    x1 = np.full(ramps.rest.shape, -1.6)
    y1 = 1 - 5 * x1**2
    z = np.full_like(x1, 3.4)
    x2, y2, g = np.full_like(x1, -0.9), np.zeros_like(x1), 0.1 * x1
    signal, state = np.empty((2, n_samples, *x1.shape), dtype=np.float32)
    for sample in range(n_samples):
        x0 = ramps.at(sample * units_per_sample)
        drive = strength * (x1 @ coupling.T - pull * x1)
        z += units_per_sample / tau * (4 * (x1 - x0) - z - drive)
        g -= units_per_sample * 0.01 * (g - 0.1 * x1)
        kick = noise * np.sqrt(units_per_sample) * rng.standard_normal((2, *x1.shape))
        x2, y2 = x2 + kick[0], y2 + kick[1]
        bend = 0.6 * (z - 4) ** 2
        push_1, push_2 = 3.1 - z, 0.45 + 2 * g - 0.3 * (z - 3.5)
        for _ in range(steps):
            square = x1 * x1
            f1 = np.where(x1 < 0, square * (x1 - 3), (x2 - bend) * x1)
            f2 = np.maximum(6 * (x2 + 0.25), 0)
            x1, y1, x2, y2 = (
                x1 + step * (y1 - f1 + push_1),
                y1 + step * (1 - 5 * square - y1),
                x2 + step * (x2 - x2 * x2 * x2 - y2 + push_2),
                y2 + step * 0.1 * (f2 - y2),
            )
        signal[sample], state[sample] = x2 - x1, x1
    return np.moveaxis(signal, 0, -1), np.moveaxis(state, 0, -1)


def ictal_spans(
    state: Float32[np.ndarray, "episode node sample"],
) -> Float[np.ndarray, "episode node 2"]:
    """First sample with x1 > 0, and the one after the last; NaN if a node stays at rest."""
    ictal = state > 0
    first = ictal.argmax(axis=-1)
    stop = state.shape[-1] - ictal[..., ::-1].argmax(axis=-1)
    spans = np.stack([first, stop], axis=-1).astype(np.float64)
    spans[~ictal.any(axis=-1)] = np.nan
    return spans
