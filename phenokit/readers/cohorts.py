"""Read the tables of a cohort, and build from them who is analysed, and by which ECG.

A cohort is a folder of CSV tables (docs/cohort.md), single files, or the hospital tables of
MIMIC-IV. Every rule that leaves somebody out is a step of the attrition, and the steps add
up: what a step leaves and what it drops is what the step before it left.
"""

import re
import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd

from phenokit.cohort import AttritionStep, Cohort, MappingReport
from phenokit.errors import BadInput, Outcome
from phenokit.readers.archives import unpack_gzip
from phenokit.readers.diagnoses import (
    Diagnoses,
    PhecodeCounts,
    read_diagnoses,
    read_phecode_counts,
)
from phenokit.readers.files import read_bytes
from phenokit.readers.phecodes import CaseRule, PhecodeMap, case_status
from phenokit.readers.tables import (
    Column,
    numbers_or_text,
    parse_header,
    parse_table,
    raise_first,
    read_table,
    refusal_of_rows,
)

Times = Literal["zoned", "local"]
Rule = Literal["same_admission", "window", "any_time"]
Unit = Literal["first", "last", "first_in_admission", "all"]

YEAR = 365.25
"""Days."""

MAX_AGE = 130.0

_SEX = {
    **dict.fromkeys(("female", "f", "woman"), "Female"),
    **dict.fromkeys(("male", "m", "man"), "Male"),
    **dict.fromkeys(("", "unknown", "u", "other", "o"), ""),
}
_MOMENT = re.compile(
    r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d{1,6})?)?(Z|[+-]\d\d:\d\d)?)?", re.ASCII
)
_ENDINGS = (".csv", ".csv.gz", ".parquet")
_ADMISSIONS = (
    *(Column("person_id"), Column("admission_id", unique=True), Column("admitted")),
    Column("discharged", may_be_missing=True),
)
_RECORDINGS = (
    *(Column("record_id", unique=True), Column("person_id")),
    Column("time", is_required=False, may_be_missing=True),
    Column("admission_id", is_required=False, may_be_missing=True),
)
_FOLLOW_UP = (
    *(Column("person_id", unique=True), Column("end", "date")),
    Column("reason", is_required=False, may_be_missing=True),
)
_UNIT_RULES = {
    "first": "First recording of each patient",
    "last": "Last recording of each patient",
    "first_in_admission": "First recording of each patient during an admission",
    "all": "All recordings of each patient",
}


@dataclass(frozen=True)
class CohortTables:
    """The tables of a cohort, checked one by one and against each other.

    Times are as the clock on the wall showed them (datetime64 without zone), since dates
    are; an `instant` is the same moment in UTC, or by the one clock of local times, and NaT
    where no more than the day is known.

    Attributes
    ----------
    patients
        `person_id` (text, once), `sex` (``"Female"``, ``"Male"`` or empty), and one of
        `birth_date`, `birth_year`, `age`, or none; further columns as they came, numbers
        as float64 where every cell is one.
    diagnoses
        ICD codes, or phecodes counted before.
    admissions
        `person_id`, `admission_id`, `admitted`, `discharged` (NaT if unknown),
        `admitted_instant`, `discharged_instant`.
    recordings
        `record_id`, `person_id`, `time` (NaT if unknown), `instant`, `admission_id`
        (empty if unknown).
    follow_up
        `person_id`, `end`: the last day on which the patient was observed; where known
        `reason`: why that was the last, ``"died"`` for the day of death.
    notes
        What a reader of the report has to know about the source.
    """

    patients: pd.DataFrame
    diagnoses: Diagnoses | PhecodeCounts
    admissions: pd.DataFrame | None = None
    recordings: pd.DataFrame | None = None
    follow_up: pd.DataFrame | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Linking:
    """Which diagnoses speak for a recording, and which recordings for a patient.

    Attributes
    ----------
    rule
        ``"same_admission"``: codes of the admission during which it was recorded;
        ``"window"``: codes from `days_before` days before its day to `days_after` days
        after; ``"any_time"``: all codes of the patient.
    days_before, days_after
        Of the window; both ends included.
    unit
        ``"first"`` or ``"last"`` of a patient's recordings that the other rules left;
        ``"first_in_admission"``: the first of those recorded during an admission;
        ``"all"``: a row a recording.
    """

    rule: Rule = "any_time"
    days_before: int = 0
    days_after: int = 365
    unit: Unit = "first"

    def __post_init__(self) -> None:
        for value, choices in ((self.rule, Rule), (self.unit, Unit)):
            if value not in get_args(choices):
                raise ValueError(f"{value!r} is not one of {', '.join(get_args(choices))}")
        if self.days_before + self.days_after < 0:
            raise ValueError("The window ends before it begins")


def read_cohort_tables(
    folder: Path | None = None,
    *,
    patients: Path | None = None,
    diagnoses: Path | None = None,
    phecode_counts: Path | None = None,
    admissions: Path | None = None,
    recordings: Path | None = None,
    follow_up: Path | None = None,
    times: Times = "zoned",
) -> CohortTables:
    """Read a cohort from a folder or from single files.

    Parameters
    ----------
    folder
        A cohort folder, or the folder `hosp` of MIMIC-IV.
    patients, diagnoses, phecode_counts, admissions, recordings, follow_up
        Single files instead of a folder, or in place of the folder's. `patients` and one
        of `diagnoses` and `phecode_counts` are needed.
    times
        ``"zoned"``: a time has to carry its zone; ``"local"``: none does, and all are of
        one clock. A folder's ``cohort.toml`` may say ``times = "local"``. A date alone
        needs no zone.

    Raises
    ------
    BadInput
        As `phenokit.readers.tables.read_table` and
        `phenokit.readers.diagnoses.read_diagnoses`; ``E_MISSING`` where a needed table is
        absent; ``E_DUP_ID`` for a person, admission or recording in several rows;
        ``E_DATE`` for dates out of order: a discharge before its admission, a code,
        admission or recording before the birth, a follow-up that ends before the
        recording; ``E_RANGE`` for a sex or an age that cannot be, or an admission that is
        not this person's.
    """
    from phenokit.readers.mimic import is_mimic, read_mimic

    given: dict[str, Path | None] = {
        "patients": patients,
        "diagnoses": diagnoses,
        "phecode_counts": phecode_counts,
        "admissions": admissions,
        "recordings": recordings,
        "follow_up": follow_up,
    }
    if folder is not None:
        if is_mimic(folder):
            others = [name for name in given if name != "recordings" and given[name]]
            if others:
                raise BadInput(
                    "E_COLUMNS",
                    f"MIMIC-IV is read as it stands; leave out the {others[0]} table.",
                    where=others[0],
                )
            return read_mimic(folder, record_list=recordings)
        times = _times_of(folder, times)
        for name, path in given.items():
            if name != "diagnoses" or phecode_counts is None:
                given[name] = path or _file_of(folder, name)
    if diagnoses is not None and phecode_counts is not None:
        raise BadInput(
            "E_COLUMNS", "Give diagnoses or phecode counts, not both.", where="diagnoses"
        )
    if given["diagnoses"] is not None:
        given["phecode_counts"] = None
    if given["patients"] is None or not (given["diagnoses"] or given["phecode_counts"]):
        absent = "patients" if given["patients"] is None else "diagnoses"
        raise BadInput("E_MISSING", f"The {absent} table is missing.", where=absent)
    people, notes = _read_patients(given["patients"])
    if given["diagnoses"] is not None:
        codes = read_diagnoses(given["diagnoses"])
    else:
        assert given["phecode_counts"] is not None
        codes = read_phecode_counts(given["phecode_counts"])
    tables = CohortTables(
        people,
        codes,
        admissions=_read_admissions(given["admissions"], times),
        recordings=_read_recordings(given["recordings"], times),
        follow_up=_read_follow_up(given["follow_up"]),
        notes=(*notes, *(["Times are local, without a zone."] * (times == "local"))),
    )
    check_tables(tables)
    return tables


def build_cohort(
    tables: CohortTables,
    phecode_map: PhecodeMap,
    *,
    cases: CaseRule,
    linking: Linking,
    scored: pd.DataFrame | None = None,
) -> Cohort:
    """Apply the rules, one after the other, and say what each of them dropped.

    Parameters
    ----------
    tables, phecode_map
        See `read_cohort_tables`, `phenokit.readers.phecodes.read_phecode_map`.
    cases, linking
        Who is a case; which codes speak for which recording.
    scored
        A row a scored recording: `record_id`, `outcome` and, if known, `patient_id` and
        `code`. Rejected and abstained recordings are left out. Without a recordings table
        these are the recordings, each of its `patient_id`.

    Returns
    -------
    Cohort
        Rows in the order of person, time and recording, whatever the order of the tables.
        Without recordings a row is a patient, aged as at the first admission.

    Raises
    ------
    BadInput
        ``E_COLUMNS`` if a rule needs what the tables lack (the message names the remedy),
        ``E_DUP_ID`` if a recording is scored twice or for another patient, ``E_EMPTY`` if
        a rule leaves nobody.
    """
    has_recordings = tables.recordings is not None or scored is not None
    if has_recordings:
        rows, attrition = _link_recordings(tables, linking, scored)
    else:
        rows, attrition = _patients_alone(tables, linking)
    people = tables.patients.set_index("person_id")
    of_row = people.loc[rows["person_id"]].reset_index(drop=True)
    day = rows["time"].to_numpy().astype("datetime64[D]")
    found = case_status(
        tables.diagnoses,
        rows["person_id"].tolist(),
        of_row["sex"].tolist(),
        phecode_map,
        cases=cases,
        days=(day - linking.days_before, day + linking.days_after)
        if linking.rule == "window"
        else None,
        admission_ids=rows["admission_id"].tolist()
        if linking.rule == "same_admission"
        else None,
    )
    age, age_note = _ages(of_row, rows["time"].to_numpy(), has_recordings)
    known = ["sex", "age", "birth_date", "birth_year"]
    patients = pd.concat(
        [
            rows[["person_id", "record_id", "time", "admission_id"]],
            of_row[["sex"]],
            pd.Series(age, name="age"),
            of_row.drop(columns=[name for name in known if name in of_row]),
        ],
        axis=1,
    )
    notes = [
        _case_sentence(cases, tables.diagnoses),
        _linking_sentence(linking, has_recordings),
        age_note,
        *_mapping_sentences(found.mapping),
        *_gaps(patients, found.n_without_codes, linking),
    ]
    if found.counts["cases"].sum() == 0:
        notes.append(
            f"Nobody is a case of any phecode by {cases.minimum_codes} codes; discharge "
            "diagnoses have one date an admission and take a minimum of 1."
        )
    return Cohort(
        patients,
        found.status,
        attrition,
        (*notes, *tables.notes),
        counts=found.counts,
        mapping=found.mapping,
    )


def check_tables(tables: CohortTables) -> None:
    """Refuse tables that contradict each other; see `read_cohort_tables`."""
    faults = [
        *_check_admissions(tables),
        *_check_births(tables),
        *_check_follow_up(tables),
    ]
    raise_first(faults)


# Reading one table each.


def _times_of(folder: Path, times: Times) -> Times:
    """What ``cohort.toml`` says of times; the argument where it says nothing."""
    path = folder / "cohort.toml"
    if not path.exists():
        return times
    data = read_bytes(path, root=folder, max_bytes=1 << 20, what="cohort.toml")
    try:
        said = tomllib.loads(data.decode("utf-8")).get("times", times)
    except (UnicodeDecodeError, tomllib.TOMLDecodeError):
        raise BadInput("E_FORMAT", "cohort.toml is not TOML in UTF-8.") from None
    if said not in get_args(Times):
        raise BadInput("E_FORMAT", "cohort.toml: times is not zoned or local.")
    return said


def _file_of(folder: Path, name: str) -> Path | None:
    """The one file of a table in a folder, if there is any."""
    found = [folder / f"{name}{ending}" for ending in _ENDINGS]
    found = [path for path in found if path.exists()]
    if len(found) > 1:
        raise BadInput(
            "E_DUP_NAME", f"The folder has the table {name} twice; keep one.", where=name
        )
    return found[0] if found else None


def _read_patients(path: Path) -> tuple[pd.DataFrame, list[str]]:
    what = "patients table"
    data = unpack_gzip(read_bytes(path, what=what))
    header = parse_header(data, what=what)
    sex_name = "sex" if "sex" in header or "sex_at_birth" not in header else "sex_at_birth"
    schema = [
        Column("person_id", unique=True),
        Column(sex_name, is_required=False, may_be_missing=True),
        Column("birth_date", "date", is_required=False, may_be_missing=True),
        Column(
            *("age", "number"),
            low=0,
            high=MAX_AGE,
            is_required=False,
            may_be_missing=True,
        ),
    ]
    known = {column.name for column in schema}
    others = [name for name in dict.fromkeys(header) if name not in known]
    schema += [Column(name, may_be_missing=True) for name in others]
    table = parse_table(data, schema, what=what)
    texts = (
        table[sex_name] if sex_name in table else pd.Series("", index=table.index)
    ).tolist()
    meaning, notes = dict(_SEX), []
    if sex_name == "sex_at_birth" and set(texts) <= {"0", "1", ""}:
        meaning |= {"0": "Female", "1": "Male"}
        notes.append("Of sex_at_birth, 1 is taken for male and 0 for female, as in PheTK.")
    sex = [meaning.get(text.lower()) for text in texts]
    wrong = np.array([one is None for one in sex])
    if wrong.any():
        raise refusal_of_rows(
            "E_RANGE",
            "the sex is not Female, Male or empty",
            np.flatnonzero(wrong),
            column=sex_name,
            what=what,
        )
    columns: dict[str, Any] = {"person_id": table["person_id"], "sex": sex}
    for name in ("birth_date", "age"):
        if name in table:
            columns[name] = table[name]
    for name in others:
        columns[name] = numbers_or_text(table[name].tolist())
    if sex_name not in table:
        notes.append("The patients table has no column sex; the sex of all is unknown.")
    return pd.DataFrame(columns), notes


def _read_admissions(path: Path | None, times: Times) -> pd.DataFrame | None:
    if path is None:
        return None
    what = "admissions table"
    table = read_table(path, _ADMISSIONS, ignore_others=True, what=what)
    starts = parse_moments(
        table["admitted"].tolist(), column="admitted", times=times, what=what
    )
    ends = parse_moments(
        table["discharged"].tolist(),
        column="discharged",
        times=times,
        what=what,
        whole_day=True,
    )
    return pd.DataFrame(
        {
            "person_id": table["person_id"],
            "admission_id": table["admission_id"],
            "admitted": starts[0],
            "discharged": ends[0],
            "admitted_instant": starts[1],
            "discharged_instant": ends[1],
        }
    )


def _read_recordings(path: Path | None, times: Times) -> pd.DataFrame | None:
    if path is None:
        return None
    what = "recordings table"
    table = read_table(path, _RECORDINGS, ignore_others=True, what=what)
    cells = table["time"].tolist() if "time" in table else [""] * len(table)
    wall, instant = parse_moments(cells, column="time", times=times, what=what)
    return pd.DataFrame(
        {
            "record_id": table["record_id"],
            "person_id": table["person_id"],
            "time": wall,
            "instant": instant,
            "admission_id": table.get("admission_id", ""),
        }
    )


def _read_follow_up(path: Path | None) -> pd.DataFrame | None:
    if path is None:
        return None
    return read_table(path, _FOLLOW_UP, ignore_others=True, what="follow-up table")


def parse_moments(
    cells: Sequence[str],
    *,
    column: str,
    times: Times,
    what: str,
    whole_day: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Times of a column of text, on the wall and as instants; NaT where a cell is empty.

    Parameters
    ----------
    cells
        ISO 8601 dates or times, a cell a row.
    column, what
        Names of the column and of the table.
    times
        See `read_cohort_tables`.
    whole_day
        Whether a date alone means the end of its day rather than the beginning.

    Raises
    ------
    BadInput
        ``E_DATE`` for a cell that is no date or time, ``E_TIMEZONE`` for a time without
        the zone that was announced, or with one that was not.
    """
    indices, uniques = pd.factorize(np.array([*cells, None], dtype=object)[:-1])
    missing = np.datetime64("NaT", "us")
    walls: list[np.datetime64] = []
    instants: list[np.datetime64] = []
    faults: dict[str, tuple[str, list[int]]] = {}
    for position, text in enumerate(uniques):
        moment: Any = (missing, missing)
        if text:
            moment = _parse_moment(text, times, whole_day)
        if isinstance(moment[0], str):
            code, reason = moment
            faults.setdefault(code, (reason, []))[1].append(position)
            moment = (missing, missing)
        walls.append(moment[0])
        instants.append(moment[1])
    raise_first(
        [
            refusal_of_rows(
                code,
                reason,
                np.flatnonzero(np.isin(indices, positions)),
                column=column,
                what=what,
            )
            for code, (reason, positions) in faults.items()
        ]
    )
    return (
        np.array(walls, dtype="datetime64[us]")[indices],
        np.array(instants, dtype="datetime64[us]")[indices],
    )


def _parse_moment(text: str, times: Times, whole_day: bool) -> tuple[Any, Any]:
    """Wall time and instant; or a code and the words that follow the rows."""
    match = _MOMENT.fullmatch(text)
    try:
        moment = datetime.fromisoformat(text) if match else None
    except ValueError:
        moment = None
    if match is None or moment is None:
        return "E_DATE", "it is no date or time of ISO 8601, such as 2024-03-31T02:30Z"
    is_day, zone = match[1] is None, match[4]
    if not is_day and times == "zoned" and zone is None:
        return "E_TIMEZONE", (
            "the time has no zone; write +02:00 or Z behind it, or say that times are local"
        )
    if zone is not None and times == "local":
        return "E_TIMEZONE", "the time has a zone, and times were said to be local"
    if is_day and whole_day:
        moment = moment.replace(hour=23, minute=59, second=59)
    wall = np.datetime64(moment.replace(tzinfo=None), "us")
    if zone is None:
        return wall, np.datetime64("NaT", "us") if is_day else wall
    try:
        utc = moment.astimezone(UTC).replace(tzinfo=None)
    except OverflowError:
        return "E_DATE", "there is no such date or time"
    return wall, np.datetime64(utc, "us")


# Tables against each other.


def _rows_where(
    is_fault: np.ndarray, reason: str, column: str, what: str, code: str = "E_DATE"
) -> list[BadInput]:
    rows = np.flatnonzero(is_fault)
    if not len(rows):
        return []
    return [refusal_of_rows(code, reason, rows, column=column, what=what)]


def _check_admissions(tables: CohortTables) -> list[BadInput]:
    admissions, recordings = tables.admissions, tables.recordings
    if admissions is None:
        return []
    ends_early = np.where(
        admissions[["admitted_instant", "discharged_instant"]].isna().any(axis=1),
        admissions["discharged"] < admissions["admitted"],
        admissions["discharged_instant"] < admissions["admitted_instant"],
    )
    faults = _rows_where(
        ends_early,
        "the discharge is before the admission",
        "discharged",
        "admissions table",
    )
    if recordings is not None:
        owner = _by(admissions, "admission_id", "person_id")
        pairs = zip(recordings["admission_id"], recordings["person_id"], strict=True)
        is_foreign = np.array([bool(a) and owner.get(a) != p for a, p in pairs])
        reason = "the admissions table has no such admission of this person"
        faults += _rows_where(
            is_foreign, reason, "admission_id", "recordings table", "E_RANGE"
        )
    return faults


def _check_births(tables: CohortTables) -> list[BadInput]:
    """Nothing happens to anybody before the day of birth."""
    if "birth_date" not in tables.patients:
        return []
    birth = _by(tables.patients, "person_id", "birth_date")
    faults = []
    for table, column, what in (
        (tables.admissions, "admitted", "admissions table"),
        (tables.recordings, "time", "recordings table"),
        (tables.follow_up, "end", "follow-up table"),
    ):
        if table is not None:
            born = _days_of(birth, table["person_id"].tolist())
            is_early = table[column].to_numpy().astype("datetime64[D]") < born
            faults += _rows_where(is_early, "it is before the birth", column, what)
    codes = tables.diagnoses.table
    if "date" in codes.column_names:
        person = codes["person_id"].unify_dictionaries().combine_chunks()
        born = _days_of(birth, person.dictionary.to_pylist())[person.indices.to_numpy()]
        day = codes["date"].combine_chunks().to_numpy(zero_copy_only=False)
        rows = np.flatnonzero(day.astype("datetime64[D]") < born)
        if len(rows):
            faults.append(
                refusal_of_rows(
                    "E_DATE",
                    "the code is dated before the birth",
                    rows,
                    column="date",
                    what="diagnoses table",
                    first_row=tables.diagnoses.first_row,
                )
            )
    return faults


def _check_follow_up(tables: CohortTables) -> list[BadInput]:
    if tables.follow_up is None or tables.recordings is None:
        return []
    ordered = tables.recordings.sort_values(by="time", na_position="first")
    last = _by(ordered, "person_id", "time")
    recorded = _days_of(last, tables.follow_up["person_id"].tolist())
    end = tables.follow_up["end"].to_numpy().astype("datetime64[D]")
    return _rows_where(
        end < recorded,
        "the follow-up ends before a recording of the person",
        "end",
        "follow-up table",
    )


def _by(table: pd.DataFrame, key: str, value: str) -> dict[str, Any]:
    """The last value of each key."""
    return dict(zip(table[key].tolist(), table[value].to_numpy(), strict=True))


def _days_of(moments: Mapping[str, Any], keys: Sequence[str]) -> np.ndarray:
    """Day of each key, NaT where it has none."""
    missing = np.datetime64("NaT", "us")
    found = [moments.get(key, missing) for key in keys]
    return np.array(found, dtype="datetime64[us]").astype("datetime64[D]")


# From recordings to rows.


class _Attrition:
    """The recordings that are left, and the steps that led there."""

    def __init__(self, recordings: pd.DataFrame, n_patients: int) -> None:
        self.recordings = recordings
        self.steps = [
            AttritionStep("Patients table and recordings", n_patients, len(recordings))
        ]

    def column(self, name: str) -> np.ndarray:
        """A column of the recordings that are left."""
        return self.recordings[name].to_numpy()

    def keep(
        self, is_kept: np.ndarray, rule: str, *, n_patients: int | None = None
    ) -> None:
        """Keep some of the recordings, and the patients who have one unless told."""
        self.recordings = pd.DataFrame(self.recordings.loc[is_kept])
        before = self.steps[-1]
        n_recordings = len(self.recordings)
        if n_patients is None:
            n_patients = len(set(self.column("person_id")))
        self.steps.append(
            AttritionStep(
                rule,
                n_patients,
                n_recordings,
                before.n_patients - n_patients,
                before.n_recordings - n_recordings,
            )
        )
        if n_patients == 0:
            raise BadInput(
                "E_EMPTY",
                f"Nobody is left after the rule: {rule}; before it there were "
                f"{before.n_patients} patients and {before.n_recordings} recordings.",
            )


def _link_recordings(
    tables: CohortTables, linking: Linking, scored: pd.DataFrame | None
) -> tuple[pd.DataFrame, tuple[AttritionStep, ...]]:
    """The recordings that are analysed, and how many each rule dropped."""
    n_patients = len(tables.patients)
    left = _Attrition(_gather(tables.recordings, scored), n_patients)
    if not left.column("is_listed").all():
        rule = "Recordings that the recordings table lists"
        left.keep(left.column("is_listed").astype(bool), rule, n_patients=n_patients)
    people = set(tables.patients["person_id"])
    left.keep(
        np.array([person in people for person in left.column("person_id")], dtype=bool),
        "Recordings of people in the patients table",
        n_patients=n_patients,
    )
    left.keep(np.ones(len(left.recordings), dtype=bool), "Patients with a recording")
    if scored is not None:
        _keep_scored(left)
    if linking.rule == "same_admission" or linking.unit == "first_in_admission":
        left.recordings = _with_admission(left.recordings, tables.admissions)
        left.keep(left.column("admission_id") != "", "Recordings during an admission")
    if linking.rule == "window":
        is_timed = ~np.isnat(left.column("time"))
        if not is_timed.any():
            raise BadInput(
                "E_COLUMNS",
                "No recording has a time, so that no window can be laid; add the column "
                "time to the recordings table, or link at any time.",
                where="column time",
            )
        left.keep(is_timed, "Recordings whose time is known")
    if linking.unit != "all":
        _choose(left, linking.unit)
    rows = _in_order(left.recordings).reset_index(drop=True)
    return rows, tuple(left.steps)


def _keep_scored(left: _Attrition) -> None:
    """Leave out what the model did not score, with the codes that say why."""
    left.keep(left.column("outcome") != "", "Recordings that are in the scores")
    for refused in (Outcome.REJECTED, Outcome.ABSTAINED):
        is_refused = left.column("outcome") == refused.value
        if is_refused.any():
            counts = Counter(left.column("code")[is_refused].tolist())
            ranked = sorted(counts.items(), key=lambda one: (-one[1], one[0]))
            reasons = ", ".join(f"{code or 'no code'} {n}" for code, n in ranked)
            left.keep(~is_refused, f"Recordings that were not {refused} ({reasons})")


def _in_order(recordings: pd.DataFrame) -> pd.DataFrame:
    """By person, then time, then id, whatever the order of the table."""
    instant, time = recordings["instant"].to_numpy(), recordings["time"].to_numpy()
    moment = np.where(np.isnat(instant), time, instant)
    keys = ["person_id", "moment", "record_id"]
    return recordings.assign(moment=moment).sort_values(by=keys).drop(columns="moment")


def _gather(recordings: pd.DataFrame | None, scored: pd.DataFrame | None) -> pd.DataFrame:
    """All recordings of the table and of the scores, with their outcome where scored."""
    columns = ["record_id", "person_id", "time", "instant", "admission_id"]
    if scored is None:
        assert recordings is not None
        return recordings.filter(columns).assign(is_listed=True, outcome="", code="")
    scores = pd.DataFrame(
        {
            name: _texts_of(scored, name)
            for name in ("record_id", "patient_id", "outcome", "code")
        }
    )
    n_twice = len(scores) - len(set(scores["record_id"]))
    if n_twice:
        raise BadInput("E_DUP_ID", f"{n_twice} recordings stand in the scores twice.")
    if recordings is None:
        if not any(scores["patient_id"]):
            raise BadInput(
                "E_COLUMNS",
                "The scores name no patient; give a recordings table with record_id and "
                "person_id.",
                where="column patient_id",
            )
        never = np.datetime64("NaT", "us")
        return scores.rename(columns={"patient_id": "person_id"}).assign(
            time=never, instant=never, admission_id="", is_listed=True
        )
    merged = recordings.filter(columns).merge(
        scores, on="record_id", how="outer", indicator=True
    )
    texts = ["person_id", "admission_id", "patient_id", "outcome", "code"]
    merged[texts] = merged[texts].fillna("")
    is_listed = merged["_merge"].to_numpy() != "right_only"
    said, meant = merged["patient_id"].to_numpy(), merged["person_id"].to_numpy()
    n_other = int((is_listed & (said != "") & (said != meant)).sum())
    if n_other:
        raise BadInput(
            "E_DUP_ID",
            f"{n_other} recordings are of another patient in the scores than in the "
            "recordings table.",
        )
    return merged.drop(columns=["_merge", "patient_id"]).assign(is_listed=is_listed)


def _texts_of(table: pd.DataFrame, name: str) -> list[str]:
    """A column as text; empty where it is missing."""
    if name not in table:
        return [""] * len(table)
    return ["" if pd.isna(value) else str(value) for value in table[name]]


def _with_admission(
    recordings: pd.DataFrame, admissions: pd.DataFrame | None
) -> pd.DataFrame:
    """The admission of each recording: as listed, or the last begun that holds its time."""
    listed = recordings["admission_id"].to_numpy()
    is_open = (listed == "") & recordings["time"].notna().to_numpy()
    if admissions is None:
        if (listed == "").all():
            raise BadInput(
                "E_COLUMNS",
                "No recording has an admission and there is no admissions table; add the "
                "column admission_id or the table, or link by a window.",
                where="column admission_id",
            )
        return recordings
    from phenokit.readers.connection import open_duckdb

    position = np.flatnonzero(is_open)
    with open_duckdb() as connection:
        connection.register(
            "recordings",
            pd.DataFrame(
                {
                    "position": position,
                    "person_id": recordings["person_id"].to_numpy()[position],
                    "time": recordings["time"].to_numpy()[position],
                    "instant": recordings["instant"].to_numpy()[position],
                }
            ),
        )
        connection.register("admissions", admissions)
        inside = connection.sql(
            "SELECT r.position, arg_max(a.admission_id, "
            "  {'admitted': a.admitted, 'id': a.admission_id}) AS admission_id "
            "FROM recordings r JOIN admissions a ON r.person_id = a.person_id AND CASE "
            "WHEN r.instant IS NULL THEN r.time "
            "  BETWEEN date_trunc('day', a.admitted) AND a.discharged "
            "WHEN a.admitted_instant IS NULL OR a.discharged_instant IS NULL THEN r.time "
            "  BETWEEN a.admitted AND a.discharged "
            "ELSE r.instant BETWEEN a.admitted_instant AND a.discharged_instant END "
            "GROUP BY r.position"
        ).fetchnumpy()
    found = listed.copy()
    found[inside["position"]] = inside["admission_id"]
    return recordings.assign(admission_id=found)


def _choose(left: _Attrition, unit: str) -> None:
    """One recording a patient; those that cannot be ordered are a step of their own."""
    counts = Counter(left.column("person_id").tolist())
    is_alone = np.array([counts[one] == 1 for one in left.column("person_id")])
    is_timed = ~np.isnat(left.column("time"))
    if not (is_alone | is_timed).all():
        if not is_timed.any():
            raise BadInput(
                "E_COLUMNS",
                f"{sum(n > 1 for n in counts.values())} patients have several recordings "
                "and no recording has a time, so that none can be chosen; add the column "
                "time to the recordings table, keep one recording a patient, or analyse "
                "all.",
                where="column time",
            )
        rule = "Recordings whose time is known, or the only one of a patient"
        left.keep(is_alone | is_timed, rule)
    left.recordings = _in_order(left.recordings)
    person = left.column("person_id")
    differs = person[1:] != person[:-1]
    ends = (differs, [True]) if unit == "last" else ([True], differs)
    left.keep(np.concatenate(ends).astype(bool), _UNIT_RULES[unit])


def _patients_alone(
    tables: CohortTables, linking: Linking
) -> tuple[pd.DataFrame, tuple[AttritionStep, ...]]:
    """A row a patient where there are no recordings, at the time of the first admission."""
    if linking.rule != "any_time":
        raise BadInput(
            "E_COLUMNS",
            f"There are no recordings to link by {linking.rule}; give a recordings table "
            "or scores, or link at any time.",
        )
    rows = pd.DataFrame(
        {
            "person_id": sorted(tables.patients["person_id"]),
            "record_id": "",
            "admission_id": "",
        }
    )
    rows["time"] = np.datetime64("NaT", "us")
    if tables.admissions is not None:
        order = ["person_id", "admitted", "admission_id"]
        # From the last to the first: what stays is the first.
        admitted = _by(
            tables.admissions.sort_values(by=order, ascending=False),
            *("person_id", "admitted"),
        )
        missing = np.datetime64("NaT", "us")
        times = [admitted.get(person, missing) for person in rows["person_id"]]
        rows["time"] = np.array(times, dtype="datetime64[us]")
    return rows, (AttritionStep("Patients table", len(rows), 0),)


def _ages(
    of_row: pd.DataFrame, time: np.ndarray, has_recordings: bool
) -> tuple[np.ndarray, str]:
    """Age in years of each row, and how it was told."""
    when = "at the recording" if has_recordings else "at the first admission"
    given = of_row["age"].to_numpy(np.float64) if "age" in of_row else None
    if "birth_date" in of_row:
        days = time.astype("datetime64[D]") - of_row["birth_date"].to_numpy().astype(
            "datetime64[D]"
        )
        age = days / np.timedelta64(1, "D") / YEAR
        if given is not None:
            age = np.where(np.isnan(age), given, age)
        return age, f"Age is in years {when}, from the date of birth."
    if "birth_year" in of_row:
        years = time.astype("datetime64[Y]") - np.datetime64("0000", "Y")
        age = years / np.timedelta64(1, "Y") - of_row["birth_year"].to_numpy(np.float64)
        return age, f"Age is in whole years {when}, from the year of birth."
    if given is not None:
        return given, "Age is as the patients table gives it."
    return np.full(len(of_row), np.nan), "The age of all is unknown."


# Sentences of the report.


def _case_sentence(cases: CaseRule, diagnoses: Diagnoses | PhecodeCounts) -> str:
    n = cases.minimum_codes
    if isinstance(diagnoses, PhecodeCounts):
        enough = f"a count of at least {n}, as the table counts"
    elif n == 1:
        enough = "at least one code of the phecode"
    else:
        dates = "distinct dates" if cases.distinct_dates else "any dates"
        enough = f"at least {n} codes of the phecode on {dates}"
    related = " and none of its exclusion range" if cases.use_exclusions else ""
    return (
        f"Case: {enough}. Control: no code of it{related}. Everybody else, and the other "
        "sex where a phecode has one, is excluded."
    )


def _linking_sentence(linking: Linking, has_recordings: bool) -> str:
    if not has_recordings:
        return "There are no recordings; all codes of a patient count."
    rule = {
        "same_admission": "codes of the admission during which the ECG was recorded count",
        "window": (
            f"codes from {linking.days_before} days before the day of the ECG to "
            f"{linking.days_after} days after it count"
        ),
        "any_time": "all codes of the patient count, before and after the ECG",
    }[linking.rule]
    unit = _UNIT_RULES[linking.unit]
    return f"{unit}; {rule}."


def _mapping_sentences(mapping: MappingReport | None) -> list[str]:
    if mapping is None:
        return ["Phecodes were counted before; ICD codes were not seen."]
    if mapping.n_rows == 0:
        return ["There is no diagnosis of anybody in the cohort."]
    sentences = [
        f"{mapping.n_mapped_rows:,} of {mapping.n_rows:,} ICD codes "
        f"({100 * mapping.rate:.1f} %) lead to a phecode; {mapping.n_unmapped_codes:,} of "
        f"{mapping.n_codes:,} different codes lead to none."
    ]
    if mapping.unmapped:
        listed = ", ".join(f"{c} (ICD-{v}) {n:,}" for c, v, n in mapping.unmapped)
        sentences.append(f"The most frequent codes without a phecode: {listed}.")
    if mapping.n_rows_of_others:
        sentences.append(
            f"{mapping.n_rows_of_others:,} codes are of people outside the cohort."
        )
    return sentences


def _gaps(patients: pd.DataFrame, n_without_codes: int, linking: Linking) -> list[str]:
    what = "recordings" if linking.unit == "all" else "patients"
    gaps = {
        "have no linked diagnosis at all and count as controls": n_without_codes,
        "are of unknown sex": int((patients["sex"] == "").sum()),
        "are of unknown age": int(patients["age"].isna().sum()),
    }
    return [f"{n:,} of {len(patients):,} {what} {words}." for words, n in gaps.items() if n]
