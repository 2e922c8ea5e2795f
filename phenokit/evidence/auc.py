"""Area under the ROC curve of every exposure for every phecode, and its interval.

The AUC is the probability that a case has a higher exposure than a control, ties half
(Mann & Whitney 1947): an exact count here, over each phecode's own cases and controls. Its
standard error is that of DeLong, DeLong & Clarke-Pearson (1988, doi:10.2307/2531595), from
sorted values as in Sun & Xu (2014, doi:10.1109/LSP.2014.2337313).

Counting for all pairs costs little because an exposure is sorted once for all phecodes.
The patients below a case are then its place in that order, less those of them that are not
controls. The latter are ones in a row of bits in the order of the exposure: a running
count at each word of 32 and the ones within the word give how many stand below a case,
whatever the size of the cohort. All counts are integers, so that no block size, order of
rows or number of threads changes an AUC.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, Int8, Int32, Int64, Shaped, UInt32

from phenokit.cohort import CaseStatus, PhecodeStatus

Z_95 = 1.959963984540054
"""Quantile of the normal distribution that leaves 2.5 % above."""

WORD = 32
"""Bits counted at once."""

CACHED_PLACES = 2**21
"""Places of patients (a byte each) that are marked at once."""


@dataclass(frozen=True)
class DeLong:
    """AUCs with Wald intervals (95 %), cut at 0 and 1.

    Standard error and interval are NaN where they are not defined: with one case or one
    control, and at an AUC of 0 or 1, where the estimated error is 0 and says nothing. The
    AUC is NaN without a case or without a control.
    """

    auc: Float[np.ndarray, "*shape"]
    standard_error: Float[np.ndarray, "*shape"]
    low: Float[np.ndarray, "*shape"]
    high: Float[np.ndarray, "*shape"]

    @classmethod
    def of(
        cls, auc: Float[np.ndarray, "*shape"], standard_error: Float[np.ndarray, "*shape"]
    ) -> "DeLong":
        """With the intervals that the standard errors give."""
        half = Z_95 * standard_error
        low, high = np.clip([auc - half, auc + half], 0, 1)
        return cls(auc, standard_error, low, high)


@dataclass(frozen=True)
class DeLongDifference:
    """Differences of the AUCs of two exposures in the same patients.

    Attributes
    ----------
    difference
        First minus second.
    standard_error, low, high
        With a Wald interval (95 %); NaN with one case or one control, and where the two
        rank all patients alike, so that there is no error to estimate.
    p_value
        Two-sided, of no difference.
    """

    difference: Float[np.ndarray, " pair"]
    standard_error: Float[np.ndarray, " pair"]
    low: Float[np.ndarray, " pair"]
    high: Float[np.ndarray, " pair"]
    p_value: Float[np.ndarray, " pair"]


def auc_all_pairs(
    values: Float[np.ndarray, "patient exposure"],
    status: PhecodeStatus,
    *,
    exposures_at_once: int | None = None,
) -> Float[np.ndarray, "exposure phecode"]:
    """Exact AUC of every exposure for every phecode, ties half, float64.

    Parameters
    ----------
    values
        Higher should mean case; finite or infinite, not NaN.
    status
        A phecode's excluded patients count neither as cases nor as controls.
    exposures_at_once
        Size of a block; by default as many as work within the processor's cache. Changes
        memory (about 30 bytes a patient and exposure of the block), not the result.

    Returns
    -------
    np.ndarray
        0 to 1; NaN where a phecode has no case or no control.

    Raises
    ------
    ValueError
        If a value is NaN.

    Examples
    --------
    >>> status = PhecodeStatus(("427.2",), 4, (np.array([2, 3]),), (np.array([], int),))
    >>> auc_all_pairs(np.array([[0.1], [0.4], [0.4], [0.9]]), status)
    array([[0.875]])
    """
    auc = np.full((values.shape[1], len(status)), np.nan)
    groups = list(_groups_by_controls(status))
    for block, ranks in _blocks(values, exposures_at_once):
        for members in groups:
            auc[block, members] = _auc_of_group(ranks, status.at_phecodes(members))
    return auc


def delong_all_pairs(
    values: Float[np.ndarray, "patient exposure"],
    status: PhecodeStatus,
    *,
    exposures_at_once: int | None = None,
) -> DeLong:
    """AUC of every exposure for every phecode with its DeLong interval.

    Takes some three times as long as `auc_all_pairs`, whose parameters it has, and a
    twentieth of `delong` for one phecode after the other.

    Returns
    -------
    DeLong
        Arrays of shape ``(exposure, phecode)``.

    Raises
    ------
    ValueError
        If a value is NaN.
    """
    auc, error = np.full((2, values.shape[1], len(status)), np.nan)
    groups = list(_groups_by_controls(status))
    for block, ranks in _blocks(values, exposures_at_once):
        for members in groups:
            auc[block, members], error[block, members] = _delong_of_group(
                ranks, status.at_phecodes(members)
            )
    return DeLong.of(auc, error)


def delong(
    values: Float[np.ndarray, "patient exposure"],
    status_column: Int8[np.ndarray, " patient"],
) -> DeLong:
    """AUC of each exposure for one phecode, with its DeLong interval.

    Parameters
    ----------
    values
        As in `auc_all_pairs`.
    status_column
        `CaseStatus` of each patient.

    Raises
    ------
    ValueError
        If a value is NaN.
    """
    _refuse_nan(values)
    cases = np.sort(values[status_column == CaseStatus.CASE].T)
    controls = np.sort(values[status_column == CaseStatus.CONTROL].T)
    below, not_above = (np.zeros(cases.shape, dtype=np.int64) for _ in range(2))
    n_tied = np.zeros(len(cases), dtype=np.int64)
    for k, (case, control) in enumerate(zip(cases, controls, strict=True)):
        below[k] = np.searchsorted(control, case, side="left")
        not_above[k] = np.searchsorted(control, case, side="right")
        n_tied[k] = _n_tied(case, not_above[k] - below[k])
    auc, error = _auc_and_error(below, not_above, n_tied, controls.shape[1])
    return DeLong.of(auc, error)


def delong_difference(
    first: Float[np.ndarray, "patient pair"],
    second: Float[np.ndarray, "patient pair"],
    status_column: Int8[np.ndarray, " patient"],
) -> DeLongDifference:
    """Difference of the AUCs of paired exposures for one phecode, with its interval.

    Parameters
    ----------
    first, second
        Column k of the one is compared with column k of the other. For an exposure that
        is low in cases, hand over its negative.
    status_column
        `CaseStatus` of each patient.

    Raises
    ------
    ValueError
        If a value is NaN.
    """
    from scipy.special import ndtr

    _refuse_nan(first)
    _refuse_nan(second)
    is_case = status_column == CaseStatus.CASE
    is_control = status_column == CaseStatus.CONTROL
    differences, errors = [], []
    for one, other in zip(first.T, second.T, strict=True):
        of_case, of_control = (
            a - b
            for a, b in zip(
                _placements(one[is_case], one[is_control]),
                _placements(other[is_case], other[is_control]),
                strict=True,
            )
        )
        defined = len(of_case) and len(of_control)
        differences.append(of_case.mean() if defined else np.nan)
        errors.append(_error(of_case, of_control))
    difference, error = np.array(differences), np.array(errors)
    return DeLongDifference(
        difference,
        error,
        difference - Z_95 * error,
        difference + Z_95 * error,
        2 * ndtr(-np.abs(difference) / error),
    )


@dataclass(frozen=True)
class _Ranks:
    """Places of the patients in the order of each exposure of a block.

    Exposure k counts its places from ``k * width`` on, so that one flat row of bits serves
    the block. `width` is a multiple of a word and more than the number of patients.
    """

    width: int
    place: Int[np.ndarray, "patient exposure"]
    """Of each patient alone; patients with equal values in any order."""
    below: Int[np.ndarray, "patient exposure"]
    """How many have less; `place` itself where no values are equal."""
    tied: Int[np.ndarray, " tied"]
    """Positions of the exposures in which some values are equal."""
    not_above: Int[np.ndarray, "patient tied"]
    """How many have less or as much, for the tied exposures."""

    @classmethod
    def of(cls, values: Float[np.ndarray, "patient exposure"]) -> "_Ranks":
        """Sort each exposure."""
        n, n_exposures = values.shape
        width = (n // WORD + 1) * WORD
        places = np.arange(n, dtype=np.int32)
        place, below = np.empty((2, n_exposures, n), dtype=np.int32)
        tied, not_above = [], []
        for k, column in enumerate(np.ascontiguousarray(values.T)):
            order = _ascending(column)
            ascending = column[order]
            place[k, order] = places + k * width
            is_new = np.append(True, ascending[1:] != ascending[:-1])[:n]
            below[k] = place[k]
            if is_new.all():
                continue
            starts = np.flatnonzero(is_new)
            sizes = np.diff(starts, append=n)
            below[k, order] = np.repeat(starts, sizes) + k * width
            last = np.empty(n, dtype=np.int32)
            last[order] = np.repeat(starts + sizes, sizes) + k * width
            tied.append(k)
            not_above.append(last)
        return cls(
            width,
            np.ascontiguousarray(place.T),
            np.ascontiguousarray(below.T),
            np.array(tied, dtype=np.int64),
            np.array(not_above, dtype=np.int32).reshape(len(tied), n).T.copy(),
        )


def _ascending(values: Float[np.ndarray, " patient"]) -> Int[np.ndarray, " patient"]:
    """Order of the values, as `np.argsort` but in two thirds of its time.

    Sorts by one 16-bit digit after the other, the last first; numpy's stable sort of such
    a digit is a radix sort. As whole numbers the bits of positive floats are in the order
    of the floats; those of negative ones, inverted.
    """
    bits = values.astype("<f8").view(np.int64)
    keys = bits ^ ((bits >> 63) | np.int64(-(2**63)))
    order = np.arange(len(values))
    for digit in keys.view(np.uint16).reshape(-1, 4).T:
        if (digit[1:] != digit[:-1]).any():
            order = order[np.argsort(digit[order], kind="stable")]
    return order


def _auc_of_group(
    ranks: _Ranks, status: PhecodeStatus
) -> Float[np.ndarray, "exposure phecode"]:
    """AUCs of phecodes with the same controls."""
    n_exposures = ranks.place.shape[1]
    auc = np.full((n_exposures, len(status)), np.nan)
    # With the same controls the others are the same too, cases and excluded together. Of
    # a phecode alone only the excluded are marked: among cases the count is known.
    shared = len(status) > 1
    marked = status.excluded_rows[0]
    if shared:
        marked = np.concatenate([marked, status.case_rows[0]])
    bits = _Bits.of(ranks, marked) if len(marked) else None
    every = np.arange(n_exposures)
    for p, (cases, excluded) in enumerate(
        zip(status.case_rows, status.excluded_rows, strict=True)
    ):
        n_cases = len(cases)
        n_controls = status.n_patients - n_cases - len(excluded)
        if n_cases == 0 or n_controls == 0:
            continue
        # Twice the number of unmarked patients below a case, those with as much counted
        # half, over all cases.
        below = ranks.below.take(cases, axis=0)
        n_below = _sum(_unmarked_below(below, bits), every, ranks.width, bits)
        twice = 2 * n_below
        if not shared:
            twice += n_cases - n_cases**2  # a case is half below itself
        if len(ranks.tied):
            not_above = ranks.not_above.take(cases, axis=0)
            n_not_above = _sum(
                _unmarked_below(not_above, bits), ranks.tied, ranks.width, bits
            )
            twice[ranks.tied] = n_below[ranks.tied] + n_not_above
            if not shared:
                twice[ranks.tied] -= n_cases**2
        auc[:, p] = twice / (2 * n_cases * n_controls)
    return auc


@dataclass(frozen=True)
class _Bits:
    """Marked patients as ones in the order of each exposure."""

    words: UInt32[np.ndarray, " word"]
    n_upto: Int32[np.ndarray, " word"]
    """Ones in the words of the block up to and with this one."""
    n_marked: int

    @classmethod
    def of(cls, ranks: _Ranks, rows: Int[np.ndarray, " marked"]) -> "_Bits":
        """Mark these patients."""
        marks = np.zeros(ranks.place.shape[1] * ranks.width, dtype=np.uint8)
        marks[ranks.place.take(rows, axis=0).ravel().astype(np.intp)] = 1
        words = np.packbits(marks, bitorder="little").view(np.uint32)
        return cls(words, np.cumsum(np.bitwise_count(words), dtype=np.int32), len(rows))


def _unmarked_below(
    place: Int32[np.ndarray, "*shape"], bits: _Bits | None
) -> Int32[np.ndarray, "*shape"]:
    """Unmarked patients on a lower place, those of the exposures before included."""
    if bits is None:
        return place
    word = place >> 5
    from_place_on = bits.words.take(word)
    from_place_on >>= (place & (WORD - 1)).view(np.uint32)
    n_below = place - bits.n_upto.take(word)
    n_below += np.bitwise_count(from_place_on)
    return n_below


def _before(
    exposures: Int[np.ndarray, " exposure"], width: int, bits: _Bits | None
) -> Int[np.ndarray, " exposure"]:
    """Unmarked places of the exposures before those at these positions of a block."""
    return exposures * (width - (bits.n_marked if bits is not None else 0))


def _sum(
    unmarked_below: Int32[np.ndarray, "case exposure"],
    exposures: Int[np.ndarray, " exposure"],
    width: int,
    bits: _Bits | None,
) -> Int[np.ndarray, " exposure"]:
    """Pairs of a case and an unmarked patient on a lower place of the same exposure."""
    # A sum of whole numbers below 2^53 is exact in float64, and fast as a product.
    n_pairs = np.ones(len(unmarked_below)) @ unmarked_below.astype(np.float64)
    before = _before(exposures, width, bits)
    return n_pairs.astype(np.int64) - before * len(unmarked_below)


def _delong_of_group(
    ranks: _Ranks, status: PhecodeStatus
) -> tuple[Float[np.ndarray, "exposure phecode"], Float[np.ndarray, "exposure phecode"]]:
    """AUCs of phecodes with the same controls, and their standard errors."""
    n_exposures = ranks.place.shape[1]
    auc, error = np.full((2, n_exposures, len(status)), np.nan)
    others = np.concatenate([status.case_rows[0], status.excluded_rows[0]])
    n_controls = status.n_patients - len(others)
    if len(others) == 0 or n_controls == 0:
        return auc, error
    bits = _Bits.of(ranks, others)
    every = np.arange(n_exposures)
    before = _before(every, ranks.width, bits)[:, None]
    for p, cases in enumerate(status.case_rows):
        if len(cases) == 0:
            continue
        # Ascending in each exposure, and so are the controls below.
        places = np.sort(ranks.below.take(cases, axis=0).T)
        below = not_above = (_unmarked_below(places, bits) - before).astype(np.int64)
        n_tied = np.zeros(n_exposures, dtype=np.int64)
        if len(ranks.tied):
            last = np.sort(ranks.not_above.take(cases, axis=0).T)
            not_above = below.copy()
            not_above[ranks.tied] = _unmarked_below(last, bits) - before[ranks.tied]
            for k in ranks.tied:
                n_tied[k] = _n_tied(places[k], not_above[k] - below[k])
        auc[:, p], error[:, p] = _auc_and_error(below, not_above, n_tied, n_controls)
    return auc, error


def _blocks(
    values: Float[np.ndarray, "patient exposure"], exposures_at_once: int | None
) -> Iterator[tuple[slice, _Ranks]]:
    """Some exposures at a time, sorted."""
    _refuse_nan(values)
    fitting = CACHED_PLACES // max(len(values), 1)
    size = exposures_at_once or min(max(fitting, 8), 64)
    for start in range(0, values.shape[1], size):
        block = slice(start, start + size)
        yield block, _Ranks.of(values[:, block])


def _groups_by_controls(status: PhecodeStatus) -> Iterator[list[int]]:
    """Positions of the phecodes that have the same controls, as those of a range do."""
    groups: dict[bytes, list[int]] = {}
    for p, (cases, excluded) in enumerate(
        zip(status.case_rows, status.excluded_rows, strict=True)
    ):
        if len(excluded) == 0:
            # Nothing to mark, whoever the controls are.
            yield [p]
            continue
        others = np.sort(np.concatenate([cases, excluded])).astype(np.int32)
        groups.setdefault(hashlib.blake2b(others.tobytes()).digest(), []).append(p)
    yield from groups.values()


def _n_tied(
    cases: Shaped[np.ndarray, " case"], n_controls: Int[np.ndarray, " case"]
) -> int:
    """Sum over the controls of the square of the number of cases with the same value.

    `cases` ascend; `n_controls` have the value of each.
    """
    tied = cases[n_controls > 0]
    n_cases = np.searchsorted(cases, tied, side="right")
    n_cases = n_cases - np.searchsorted(cases, tied, side="left")
    # Each case of a value stands for the controls with it, once for every case with it.
    return int((n_cases * n_controls[n_controls > 0]).sum())


def _auc_and_error(
    below: Int64[np.ndarray, "exposure case"],
    not_above: Int64[np.ndarray, "exposure case"],
    n_tied: Int64[np.ndarray, " exposure"],
    n_controls: int,
) -> tuple[Float[np.ndarray, " exposure"], Float[np.ndarray, " exposure"]]:
    """AUCs of one phecode and their standard errors.

    Parameters
    ----------
    below, not_above
        Controls below each case, and not above it, in ascending order.
    n_tied
        See `_n_tied`.
    """
    n_exposures, n_cases = below.shape
    if n_cases == 0 or n_controls == 0:
        return np.full(n_exposures, np.nan), np.full(n_exposures, np.nan)
    twice = below + not_above  # twice the placement of each case, times n_controls
    total = twice.sum(axis=1)
    auc = total / (2 * n_cases * n_controls)
    if n_cases == 1 or n_controls == 1:
        return auc, np.full(n_exposures, np.nan)
    centred = twice - (total / n_cases)[:, None]
    of_cases = np.einsum("ec,ec->e", centred, centred)
    # The placements of the controls need no pass over them. If l cases are below a control
    # and u not above it, its placement counts l + u, and
    # (l + u)^2 = 2 l^2 + 2 u^2 - (u - l)^2. The sum of l^2 over controls is that of 2k - 1
    # over k = 1 ... l, that is 2k - 1 times the controls above the k-th case.
    odd = 2 * np.arange(n_cases) + 1.0
    squares = 2 * (2 * n_controls * odd.sum() - twice @ odd) - n_tied
    mean = 2 * n_cases - total / n_controls
    of_controls = np.maximum(squares - n_controls * mean**2, 0)
    # Variances of the placements over the size of their group (DeLong, equation 4).
    variance = of_cases / (4 * n_controls**2 * n_cases * (n_cases - 1))
    variance += of_controls / (4 * n_cases**2 * n_controls * (n_controls - 1))
    return auc, np.sqrt(np.where(variance > 0, variance, np.nan))


def _placements(
    cases: Float[np.ndarray, " case"], controls: Float[np.ndarray, " control"]
) -> tuple[Float[np.ndarray, " case"], Float[np.ndarray, " control"]]:
    """Of each case the share of controls below it, of each control that of cases above."""
    ascending_cases, ascending_controls = np.sort(cases), np.sort(controls)
    twice_below = np.searchsorted(ascending_controls, cases, side="left")
    twice_below = twice_below + np.searchsorted(ascending_controls, cases, side="right")
    twice_above = 2 * len(cases) - np.searchsorted(ascending_cases, controls, side="left")
    twice_above = twice_above - np.searchsorted(ascending_cases, controls, side="right")
    return twice_below / (2 * len(controls) or 1), twice_above / (2 * len(cases) or 1)


def _error(
    of_case: Float[np.ndarray, " case"], of_control: Float[np.ndarray, " control"]
) -> float:
    """Standard error of the mean placement; NaN where there is none to estimate."""
    if len(of_case) < 2 or len(of_control) < 2:
        return np.nan
    variance = of_case.var(ddof=1) / len(of_case) + of_control.var(ddof=1) / len(of_control)
    return float(np.sqrt(variance)) if variance > 0 else np.nan


def _refuse_nan(values: np.ndarray) -> None:
    if np.isnan(values).any():
        raise ValueError("an exposure is NaN; leave out the patients in whom it is missing")
