"""A cohort: patients under one inclusion rule, and which phecodes each of them has.

Whether a patient has a phecode has three answers: case, control, and excluded, where
neither can be said (one code only where two are asked for, a related diagnosis, the other
sex). A cohort of 800,000 patients and 1,800 phecodes has 1.4 billion such answers, nearly
all of them "control", so `PhecodeStatus` keeps the rows of the cases and of the excluded.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum

import numpy as np
import pandas as pd
from jaxtyping import Int, Int8


class CaseStatus(IntEnum):
    """What is known of a patient and a phecode."""

    CONTROL = 0
    CASE = 1
    EXCLUDED = 2


@dataclass(frozen=True)
class AttritionStep:
    """One rule that a cohort passed.

    Attributes
    ----------
    rule
        What was asked for, in words a reader of the report knows.
    n_patients, n_recordings
        Left after the rule.
    dropped_patients, dropped_recordings
        Dropped by it.
    """

    rule: str
    n_patients: int
    n_recordings: int
    dropped_patients: int = 0
    dropped_recordings: int = 0


@dataclass(frozen=True)
class PhecodeStatus:
    """Case status of every patient for every phecode.

    Attributes
    ----------
    phecodes
        Text, one a column, in the order of the map.
    n_patients
        Number of rows.
    case_rows, excluded_rows
        For each phecode the ascending rows (int32) of its cases and of its excluded; every
        other row is a control.
    """

    phecodes: tuple[str, ...]
    n_patients: int
    case_rows: tuple[Int[np.ndarray, " _case"], ...]
    excluded_rows: tuple[Int[np.ndarray, " _excluded"], ...]

    def __len__(self) -> int:
        """Number of phecodes."""
        return len(self.phecodes)

    def column(self, phecode: int) -> Int8[np.ndarray, " patient"]:
        """`CaseStatus` of every patient for the phecode at this position."""
        status = np.full(self.n_patients, CaseStatus.CONTROL, dtype=np.int8)
        status[self.case_rows[phecode]] = CaseStatus.CASE
        status[self.excluded_rows[phecode]] = CaseStatus.EXCLUDED
        return status

    def at_phecodes(self, positions: Sequence[int] | np.ndarray) -> "PhecodeStatus":
        """The same patients, some of the phecodes."""
        return PhecodeStatus(
            tuple(self.phecodes[j] for j in positions),
            self.n_patients,
            tuple(self.case_rows[j] for j in positions),
            tuple(self.excluded_rows[j] for j in positions),
        )

    def at_rows(self, rows: Int[np.ndarray, " row"]) -> "PhecodeStatus":
        """The same phecodes for some rows, in their order; a row may be taken again."""
        if len(rows) == self.n_patients and np.array_equal(rows, np.arange(len(rows))):
            return self
        # Where each patient went: several places if the row was taken more than once.
        order = np.argsort(rows, kind="stable")
        first = np.searchsorted(rows[order], np.arange(self.n_patients + 1))

        def moved(old: np.ndarray) -> np.ndarray:
            counts = first[old + 1] - first[old]
            starts = np.repeat(first[old] - np.cumsum(counts) + counts, counts)
            new = order[starts + np.arange(counts.sum())]
            return np.sort(new).astype(np.int32)

        return PhecodeStatus(
            self.phecodes,
            len(rows),
            tuple(map(moved, self.case_rows)),
            tuple(map(moved, self.excluded_rows)),
        )


@dataclass(frozen=True)
class MappingReport:
    """How many of the ICD codes of a cohort led to a phecode.

    Attributes
    ----------
    n_rows, n_mapped_rows
        Codes of the cohort's patients, and those that lead to a phecode.
    n_codes, n_unmapped_codes
        Different codes, and those that lead to none.
    unmapped
        The most frequent of these: code, version, number of rows.
    n_rows_of_others
        Codes of people who are not in the cohort; in no other count.
    """

    n_rows: int
    n_mapped_rows: int
    n_codes: int
    n_unmapped_codes: int
    unmapped: tuple[tuple[str, str, int], ...]
    n_rows_of_others: int = 0

    @property
    def rate(self) -> float:
        """Fraction of the codes that lead to a phecode; NaN if there is no code."""
        return self.n_mapped_rows / self.n_rows if self.n_rows else float("nan")


@dataclass(frozen=True)
class Cohort:
    """Patients under one inclusion rule, a row a patient (or a recording of one).

    Attributes
    ----------
    patients
        `person_id` (text), `record_id` (text; of the linked recording, empty where there
        is none), `sex` (``"Female"``, ``"Male"`` or empty), `age` (years at the recording;
        NaN where unknown), and whatever further columns were asked for.
    status
        Case status, in the order of `patients`.
    attrition
        Every rule in the order in which it was applied; the first step is what came in.
    notes
        Sentences for the report: the case rule, the linking rule, unmapped codes.
    counts
        Cases, controls and excluded by reason, a row a phecode; see
        `phenokit.readers.phecodes.Ascertainment`. `None` if not counted.
    mapping
        Of the ICD codes; `None` where phecodes were counted elsewhere.
    """

    patients: pd.DataFrame
    status: PhecodeStatus
    attrition: tuple[AttritionStep, ...]
    notes: tuple[str, ...] = ()
    counts: pd.DataFrame | None = None
    mapping: MappingReport | None = None

    def at_rows(self, rows: Int[np.ndarray, " row"], *, rule: str) -> "Cohort":
        """The rows that a further rule leaves, as a step of the attrition."""
        patients = self.patients.iloc[rows].reset_index(drop=True)
        last = self.attrition[-1]
        n_patients = int(patients["person_id"].nunique())
        n_recordings = len(rows) if last.n_recordings else 0
        step = AttritionStep(
            rule,
            n_patients,
            n_recordings,
            last.n_patients - n_patients,
            last.n_recordings - n_recordings,
        )
        return replace(
            self,
            patients=patients,
            status=self.status.at_rows(rows),
            attrition=(*self.attrition, step),
            counts=None,
        )
