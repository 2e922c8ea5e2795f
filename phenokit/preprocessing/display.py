"""Montages and filters of a viewer: what a reader may ask for, and how it is printed.

Nothing here is done to a recording before a model reads it. All filters run forward and
backward, so that no wave is shifted in time, and each stretch between gaps is filtered by
itself: a gap is never bridged.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Float

from phenokit.errors import BadInput
from phenokit.preprocessing.montage import bipolar, common_reference, contact_of
from phenokit.recording import Recording

Montage = Literal["as recorded", "common average", "median", "bipolar"]

MONTAGES: dict[Montage, str] = {
    "as recorded": "as recorded",
    "common average": "common average (mean of the good channels)",
    "median": "median of the good channels",
    "bipolar": "bipolar along each shaft",
}

LONGEST_MARGIN = 10.0
"""Seconds that are read on either side of a page at most, for its filters to settle."""


@dataclass(frozen=True)
class DisplayFilters:
    """Filters of a viewer, off where ``None``.

    Attributes
    ----------
    low
        Hz, below which is taken out (Butterworth, 2nd order, forward and backward).
    high
        Hz, above which is taken out (4th order).
    notch
        Hz, taken out with its multiples.
    """

    low: float | None = None
    high: float | None = None
    notch: float | None = None

    @property
    def is_on(self) -> bool:
        """Whether any filter is on."""
        return any(edge is not None for edge in (self.low, self.high, self.notch))

    @property
    def margin(self) -> float:
        """Seconds that a page needs on either side."""
        needs = [0.0]
        if self.low is not None:
            needs.append(2.0 / self.low)
        if self.notch is not None:
            needs.append(1.5)
        if self.high is not None:
            needs.append(0.5)
        return min(max(needs), LONGEST_MARGIN)

    def words(self) -> str:
        """The filters as they are printed beside every page.

        Examples
        --------
        >>> DisplayFilters(low=0.5, notch=50.0).words()
        'low filter 0.5 Hz, high filter off, notch 50 Hz and multiples, zero phase'
        """
        low = "off" if self.low is None else f"{self.low:g} Hz"
        high = "off" if self.high is None else f"{self.high:g} Hz"
        notch = "off" if self.notch is None else f"{self.notch:g} Hz and multiples"
        phase = ", zero phase" if self.is_on else ""
        return f"low filter {low}, high filter {high}, notch {notch}{phase}"


def in_montage(
    recording: Recording, montage: Montage, *, bad: Collection[str] = ()
) -> Recording:
    """The recording against another reference.

    Parameters
    ----------
    recording
        Any unit.
    montage
        One of `MONTAGES`.
    bad
        Names of channels that an average leaves out.

    Raises
    ------
    BadInput
        ``E_CHANNELS`` if there is no good channel, or no pair of neighbours on a shaft;
        channels that are no contacts have no part in pairs.
    """
    if montage == "as recorded":
        return recording
    if montage == "bipolar":
        kept = [k for k, name in enumerate(recording.channels) if contact_of(name)]
        if not kept:
            raise BadInput(
                "E_CHANNELS",
                "No channel is named after a shaft and a number, so there are no pairs.",
            )
        contacts = replace(
            recording,
            signal=recording.signal[kept],
            channels=tuple(recording.channels[k] for k in kept),
            resolution=None,
        )
        return bipolar(contacts)
    statistic = "mean" if montage == "common average" else "median"
    return common_reference(recording, statistic=statistic, bad=bad)


def filter_for_display(
    signal: Float[np.ndarray, "channel sample"],
    *,
    sampling_rate: float,
    filters: DisplayFilters,
) -> Float[np.ndarray, "channel sample"]:
    """The signal filtered for the eye; NaN stays NaN and touches nothing else.

    Raises
    ------
    ValueError
        If an edge does not lie between 0 and half the sampling rate.
    """
    if not filters.is_on:
        return signal
    from scipy.signal import sosfiltfilt

    sections = _sections(filters, sampling_rate)
    filtered = np.full(signal.shape, np.nan)  # float64: a low edge needs its digits
    known = ~np.isnan(signal)
    if known.all():
        patterns, of = known[:1], np.zeros(len(signal), dtype=int)
    else:
        # Channels that lack the same samples, as in a gap of all of them, go together.
        patterns, of = np.unique(known, axis=0, return_inverse=True)
    for k, pattern in enumerate(patterns):
        channels = np.flatnonzero(of == k)
        edges = np.flatnonzero(np.diff(np.concatenate([[False], pattern, [False]])))
        for first, stop in edges.reshape(-1, 2).tolist():
            pad = min(stop - first - 1, round(sampling_rate))
            filtered[channels, first:stop] = sosfiltfilt(
                sections,
                signal[channels, first:stop].astype(np.float64),
                axis=-1,
                padlen=pad,
            )
    return filtered


def _sections(
    filters: DisplayFilters, sampling_rate: float
) -> Float[np.ndarray, "section six"]:
    from scipy.signal import butter, iirnotch, tf2sos

    half = sampling_rate / 2
    for edge in (filters.low, filters.high, filters.notch):
        if edge is not None and not 0 < edge < half:
            raise ValueError(f"{edge:g} Hz is not between 0 and {half:g} Hz")
    sections = []
    if filters.low is not None:
        sections.append(butter(2, filters.low, "highpass", fs=sampling_rate, output="sos"))
    if filters.high is not None:
        sections.append(butter(4, filters.high, "lowpass", fs=sampling_rate, output="sos"))
    if filters.notch is not None:
        multiple = filters.notch
        while multiple < half and multiple <= 5 * filters.notch:
            # The quality grows with the multiple: every notch is 2 Hz wide.
            sections.append(tf2sos(*iirnotch(multiple, multiple / 2.0, fs=sampling_rate)))
            multiple += filters.notch
    return np.concatenate(sections)
