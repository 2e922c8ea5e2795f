"""Random changes of a prepared ECG that leave its diagnosis as it is."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Augmentation:
    """How far each change may go; 0 switches it off.

    Attributes
    ----------
    shift
        Largest circular shift in time, samples.
    gain
        Standard deviation of a factor on each lead.
    noise
        Largest standard deviation of white noise, in units of the signal.
    wander
        Largest amplitude of a slow sine on each lead (0.1 to 0.5 Hz: breathing, movement).
    stretch
        Largest relative change of the time scale of a batch; what is missing at the end is
        mirrored.
    lead_dropout
        Share of leads set to zero.
    mixup
        Parameter, at most 1, of the Beta distribution that mixes two records and their
        labels (Zhang et al. 2018, arXiv 1710.09412).
    """

    shift: int = 100
    gain: float = 0.1
    noise: float = 0.05
    wander: float = 0.0
    stretch: float = 0.0
    lead_dropout: float = 0.0
    mixup: float = 0.0


def augment(
    signal: Float[Tensor, "batch lead sample"],
    labels: Float[Tensor, "batch label"],
    settings: Augmentation,
    *,
    generator: torch.Generator,
) -> tuple[Float[Tensor, "batch lead sample"], Float[Tensor, "batch label"]]:
    """Change a batch at random; mixed labels lie between 0 and 1, unknown stays NaN."""
    batch, leads, samples = signal.shape

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator).to(signal)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(signal)

    if settings.shift:
        shift = torch.randint(
            -settings.shift, settings.shift + 1, (batch, 1, 1), generator=generator
        ).to(signal.device)
        time = (torch.arange(samples, device=signal.device) - shift) % samples
        signal = torch.gather(signal, 2, time.expand(batch, leads, samples))
    if settings.gain:
        signal = signal * (1 + settings.gain * normal(batch, leads, 1))
    if settings.noise:
        level = settings.noise * uniform(batch, 1, 1)
        signal = signal + level * normal(batch, leads, samples)
    if settings.wander:
        seconds = torch.arange(samples, device=signal.device) / 100.0
        frequency = 0.1 + 0.4 * uniform(batch, 1, 1)
        phase = 2 * math.pi * (frequency * seconds + uniform(batch, leads, 1))
        signal = signal + settings.wander * uniform(batch, leads, 1) * torch.sin(phase)
    if settings.stretch:
        factor = 1 + settings.stretch * (2 * float(uniform(1)) - 1)
        stretched = F.interpolate(signal, size=round(samples * factor), mode="linear")
        missing = max(samples - stretched.shape[-1], 0)
        signal = F.pad(stretched[..., :samples], (0, missing), mode="reflect")
    if settings.lead_dropout:
        signal = signal * (uniform(batch, leads, 1) >= settings.lead_dropout)
    if settings.mixup:
        share = _beta(settings.mixup, generator)
        partner = torch.randperm(batch, generator=generator).to(signal.device)
        signal = share * signal + (1 - share) * signal[partner]
        labels = share * labels + (1 - share) * labels[partner]
    return signal, labels


def _beta(concentration: float, generator: torch.Generator) -> float:
    """One draw of a symmetric Beta distribution, concentration up to 1 (Jöhnk 1964)."""
    while True:
        u, v = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
        x, y = u ** (1 / concentration), v ** (1 / concentration)
        if 0 < x + y <= 1:
            return x / (x + y)
