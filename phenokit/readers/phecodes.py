"""Phecodes: the maps from ICD codes, and which patients are cases, controls or neither.

Two maps ship with the package, Phecode 1.2 (Denny et al. 2013, Wu et al. 2019) and phecodeX
(Shuey et al. 2023); a user may give another in the same columns. A code counts for its
phecode and for the phecode's ancestors (the roll-up): 427.21 for 427.2 and 427.

A patient is a case of a phecode with enough codes of it, a control without any, and
excluded in between, or with a code of a related phecode (the exclusion range of 1.2), or
where the phecode is one of the other sex. The codes are counted by DuckDB; what comes back
are the pairs of patient and phecode that exist, never a matrix of both.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int, Shaped

from phenokit.cohort import MappingReport, PhecodeStatus
from phenokit.errors import BadInput
from phenokit.readers.diagnoses import ICD_VERSIONS, Diagnoses, PhecodeCounts
from phenokit.readers.tables import Column, read_table, refusal_of_rows

TABLES = Path(__file__).parent / "phecode_tables"
SEXES = ("Female", "Male")
N_UNMAPPED_LISTED = 20

CITATIONS: Mapping[str, str] = {
    "1.2": (
        "Denny JC et al. Nat Biotechnol 31, 1102-1110 (2013), doi:10.1038/nbt.2749; "
        "Wu P et al. JMIR Med Inform 7, e14325 (2019), doi:10.2196/14325."
    ),
    "X": (
        "Shuey MM, Stead WW, Aka I, ..., Bastarache L. Next-generation phenotyping: "
        "introducing phecodeX for enhanced discovery research in medical phenomics. "
        "Bioinformatics 39, btad655 (2023), doi:10.1093/bioinformatics/btad655."
    ),
}
_SHIPPED = {"1.2": "12", "X": "X"}
_PHECODE = re.compile(r"(?:([A-Z]+)_)?(\d+)(?:\.(\d+))?", re.ASCII)
_INFO = (
    Column("phecode", unique=True),
    Column("phecode_string"),
    Column("phecode_category"),
    Column("sex"),
    Column("exclude_range", is_required=False, may_be_missing=True),
)
_ICD = (
    Column("ICD"),
    Column("flag"),
    Column("phecode"),
    Column("phecode_unrolled", is_required=False),
)


@dataclass(frozen=True)
class PhecodeMap:
    """What a version of the phecodes says.

    Attributes
    ----------
    version
        ``"1.2"``, ``"X"``, or what a user's own map is called.
    info
        A row a phecode in the order of a Manhattan plot: `phecode` (text),
        `phecode_string`, `phecode_category`, `sex_restriction` (Both, Female or Male).
    icd
        `icd_code` (capitals, no dot), `icd_version` (``"9"`` or ``"10"``), `phecode`; with
        the ancestors, each row once.
    exclusions
        Of a phecode, the phecodes whose patients are no controls for it.
    citation
        What to cite.
    """

    version: str
    info: pd.DataFrame
    icd: pa.Table
    exclusions: Mapping[str, tuple[str, ...]]
    citation: str

    def __len__(self) -> int:
        """Number of phecodes."""
        return len(self.info)


@dataclass(frozen=True)
class CaseRule:
    """When a patient is a case.

    Attributes
    ----------
    minimum_codes
        Codes of the phecode that a case has at least.
    distinct_dates
        Whether several codes on one day count once.
    use_exclusions
        Whether patients with a related phecode are no controls.
    """

    minimum_codes: int = 2
    distinct_dates: bool = True
    use_exclusions: bool = True

    def __post_init__(self) -> None:
        if self.minimum_codes < 1:
            raise ValueError(f"minimum_codes is {self.minimum_codes}; it is at least 1")


@dataclass(frozen=True)
class Ascertainment:
    """Who is a case of what, and why others are neither case nor control.

    Attributes
    ----------
    status
        Case status of every row.
    counts
        A row a phecode, adding up to the number of patients: `phecode`, `cases`,
        `controls`, and excluded for `few_codes`, `related` (a code of the exclusion
        range), `wrong_sex`, `sex_unknown` (of a phecode with one sex).
    mapping
        How many ICD codes led to a phecode; `None` where phecodes were counted before.
    n_without_codes
        Rows without any code, mapped or not: controls of everything.
    """

    status: PhecodeStatus
    counts: pd.DataFrame
    mapping: MappingReport | None
    n_without_codes: int


def read_phecode_map(
    version: str = "1.2", *, info: Path | None = None, icd: Path | None = None
) -> PhecodeMap:
    """Read a phecode map, one that ships or one's own.

    Parameters
    ----------
    version
        ``"1.2"`` or ``"X"``; with `info` and `icd`, a name for the map in those files.
    info
        CSV with `phecode`, `phecode_string`, `phecode_category`, `sex` (Both, Female,
        Male) and perhaps `exclude_range` (phecodes separated by commas). Categories keep
        the order in which they first occur.
    icd
        CSV with `ICD`, `flag` (9 or 10), `phecode` and perhaps `phecode_unrolled`, the
        phecode and its ancestors in rows of their own. Without that column the ancestors
        by number that `info` has are added.

    Raises
    ------
    BadInput
        ``E_MISSING`` if the version does not ship and no files are given, or one of two is
        missing; as `phenokit.readers.tables.read_table`; and ``E_CODE`` for a phecode that
        `info` does not have, a version other than 9 and 10, or codes without their zeros.
    """
    if (info is None) != (icd is None):
        raise BadInput(
            "E_MISSING", "A phecode map of one's own takes both tables: info and icd."
        )
    if info is not None and icd is not None:
        return _assemble(
            version,
            read_table(info, _INFO, ignore_others=True, what="phecode table"),
            read_table(icd, _ICD, ignore_others=True, what="ICD map"),
        )
    if version not in _SHIPPED:
        known = " or ".join(_SHIPPED)
        raise BadInput(
            "E_MISSING",
            f"Phecode version {version} does not ship, only {known}; give the tables info "
            "and icd of your own.",
        )
    tables = [
        pq.read_table(TABLES / f"phecode{_SHIPPED[version]}_{name}.parquet")
        for name in ("info", "icd")
    ]
    info_rows, icd_rows = (table.to_pandas() for table in tables)
    return _assemble(version, info_rows, icd_rows)


def phecode_order(phecode: str) -> tuple[str, int, str]:
    """Key that sorts phecodes by number, digit by digit behind the dot.

    Examples
    --------
    >>> sorted(["250.2", "250.11", "250", "008.5", "250.1"], key=phecode_order)
    ['008.5', '250', '250.1', '250.11', '250.2']
    """
    match = _PHECODE.fullmatch(phecode)
    if match is None:
        return phecode, 0, ""
    return match[1] or "", int(match[2]), match[3] or ""


def ancestors(phecode: str) -> tuple[str, ...]:
    """Phecodes above one by number, the nearest first, whether they exist or not.

    Examples
    --------
    >>> ancestors("427.21")
    ('427.2', '427')
    """
    stem, dot, digits = phecode.partition(".")
    if not dot:
        return ()
    return (*(f"{stem}.{digits[:n]}" for n in range(len(digits) - 1, 0, -1)), stem)


def case_status(
    diagnoses: Diagnoses | PhecodeCounts,
    person_ids: Sequence[str],
    sex: Sequence[str],
    phecode_map: PhecodeMap,
    *,
    cases: CaseRule,
    days: tuple[np.ndarray, np.ndarray] | None = None,
    admission_ids: Sequence[str] | None = None,
) -> Ascertainment:
    """Case status of every row for every phecode.

    Parameters
    ----------
    diagnoses
        ICD codes, or phecodes counted before (a count is compared with `minimum_codes`,
        whatever it counted, and nothing is rolled up).
    person_ids
        Person of each row; a person may stand in several rows (one a recording).
    sex
        ``"Female"``, ``"Male"`` or anything else for unknown, of each row.
    phecode_map, cases
        The map and the rule.
    days
        First and last day (datetime64) of the codes that speak for a row, both included;
        ``None``: whenever.
    admission_ids
        Admission whose codes speak for a row; ``None``: any, or none at all.

    Raises
    ------
    BadInput
        ``E_COLUMNS`` if the rule or the link needs a column that the diagnoses lack,
        ``E_CODE`` for counted phecodes that the map does not have.
    """
    n_rows = len(person_ids)
    if len(sex) != n_rows:
        raise ValueError(f"{len(sex)} sexes for {n_rows} rows")
    if isinstance(diagnoses, PhecodeCounts):
        if days is not None or admission_ids is not None:
            raise BadInput(
                "E_COLUMNS",
                "Counted phecodes have no date and no admission; link them at any time.",
            )
        found, mapping = _counted(diagnoses, person_ids, phecode_map), None
    else:
        _require(diagnoses, cases, days is not None, admission_ids is not None)
        found, mapping = _count_codes(
            diagnoses, person_ids, phecode_map, cases, days, admission_ids
        )
    pairs, with_codes = found
    status, counts = _decide(*pairs, np.asarray(sex, dtype=object), phecode_map, cases)
    return Ascertainment(status, counts, mapping, n_rows - with_codes)


_Pairs = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Row, phecode (its position) and number of codes; sorted by phecode, then row."""


def first_code_days(
    diagnoses: Diagnoses | PhecodeCounts,
    person_ids: Sequence[str],
    phecode_map: PhecodeMap,
    phecodes: Sequence[str],
) -> dict[str, Shaped[np.ndarray, " _person"]]:
    """Day of each person's first code of some phecodes (datetime64); NaT for none.

    Raises
    ------
    BadInput
        ``E_COLUMNS`` if the diagnoses have no dates.
    """
    from phenokit.readers.connection import open_duckdb

    if isinstance(diagnoses, PhecodeCounts) or "date" not in diagnoses.table.column_names:
        raise BadInput(
            "E_COLUMNS",
            "The day of a first code needs dates; add the column date to the diagnoses.",
            where="column date",
        )
    table = diagnoses.table
    persons = {person: i for i, person in enumerate(dict.fromkeys(person_ids))}
    code_of_row, codes = _codes_of(table)
    columns = {
        "person": _looked_up(table["person_id"], persons),
        "code": code_of_row,
        "day": table["date"],
    }
    position = {phecode: j for j, phecode in enumerate(phecode_map.info["phecode"])}
    wanted = pa.table({"phecode": np.array([position[p] for p in phecodes], np.int32)})
    with open_duckdb() as connection:
        connection.register("codes", pa.table(columns))
        connection.register("links", _links(codes, phecode_map))
        connection.register("wanted", wanted)
        first = connection.sql(
            "SELECT m.phecode, c.person, min(c.day) AS day FROM codes c "
            "JOIN links m USING (code) JOIN wanted w ON m.phecode = w.phecode "
            "WHERE c.person >= 0 GROUP BY m.phecode, c.person"
        ).to_arrow_table()
    of_phecode, person = first["phecode"].to_numpy(), first["person"].to_numpy()
    day = first["day"].to_numpy().astype("datetime64[D]")
    row_of = np.array([persons[person_id] for person_id in person_ids], dtype=np.int64)
    found = {}
    for phecode in phecodes:
        chosen = of_phecode == position[phecode]
        days = np.full(len(persons), np.datetime64("NaT"), dtype="datetime64[D]")
        days[person[chosen]] = day[chosen]
        found[phecode] = days[row_of]
    return found


def _require(
    diagnoses: Diagnoses, cases: CaseRule, in_days: bool, in_admission: bool
) -> None:
    has = diagnoses.table.column_names
    if cases.distinct_dates and cases.minimum_codes > 1 and "date" not in has:
        raise BadInput(
            "E_COLUMNS",
            f"The diagnoses have no column date, so that {cases.minimum_codes} codes on "
            "distinct dates cannot be told: add it, or ask for 1 code, or for codes on "
            "any dates.",
            where="column date",
        )
    if in_days and "date" not in has:
        raise BadInput(
            "E_COLUMNS",
            "The diagnoses have no column date, so that no window can be laid; add it, or "
            "link them at any time.",
            where="column date",
        )
    if in_admission and "admission_id" not in has:
        raise BadInput(
            "E_COLUMNS",
            "The diagnoses have no column admission_id, so that they cannot be linked by "
            "admission; add it, or link them by a window.",
            where="column admission_id",
        )


def _encode(column: pa.ChunkedArray) -> tuple[Int[np.ndarray, " row"], list[str]]:
    array = column.unify_dictionaries().combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = array.chunk(0)
    return array.indices.to_numpy(), array.dictionary.to_pylist()


def _looked_up(
    column: pa.ChunkedArray, position: Mapping[str, int]
) -> Int[np.ndarray, " row"]:
    """Position of each cell's text, -1 where it has none."""
    indices, uniques = _encode(column)
    table = np.array([position.get(text, -1) for text in uniques], dtype=np.int32)
    return table[indices]


def _count_codes(
    diagnoses: Diagnoses,
    person_ids: Sequence[str],
    phecode_map: PhecodeMap,
    cases: CaseRule,
    days: tuple[np.ndarray, np.ndarray] | None,
    admission_ids: Sequence[str] | None,
) -> tuple[tuple[_Pairs, int], MappingReport]:
    """Pairs of row and phecode that have codes, rows with codes, and the mapping."""
    from phenokit.readers.connection import open_duckdb

    table = diagnoses.table
    persons = {person: i for i, person in enumerate(dict.fromkeys(person_ids))}
    code_of_row, codes = _codes_of(table)
    links = _links(codes, phecode_map)
    columns = {
        "person": _looked_up(table["person_id"], persons),
        "code": code_of_row,
    }
    rows: dict[str, Any] = {
        "row": np.arange(len(person_ids), dtype=np.int32),
        "person": np.array([persons[person] for person in person_ids], dtype=np.int32),
    }
    condition = ""
    if "date" in table.column_names:
        columns["day"] = table["date"]
    if days is not None:
        first, last = (np.asarray(day).astype("datetime64[D]") for day in days)
        rows |= {"first": pa.array(first), "last": pa.array(last)}
        condition += " AND c.day BETWEEN r.first AND r.last"
    if admission_ids is not None:
        admissions = {one: i for i, one in enumerate(dict.fromkeys(admission_ids))}
        columns["admission"] = _looked_up(table["admission_id"], admissions)
        rows["admission"] = np.array([admissions[a] for a in admission_ids], np.int32)
        condition += " AND c.admission = r.admission"
    if cases.minimum_codes == 1:
        counted = "1"  # whether there is a code is all that is asked
    elif cases.distinct_dates:
        counted = "count(DISTINCT c.day)"
    else:
        counted = "count(*)"
    with open_duckdb() as connection:
        connection.register("codes", pa.table(columns))
        connection.register("cohort", pa.table(rows))
        connection.register("links", links)
        linked = (
            "SELECT r.row, c.code, c.* EXCLUDE (person, code) FROM codes c "
            f"JOIN cohort r ON c.person = r.person{condition}"
        )
        pairs = connection.sql(
            f"SELECT c.row, m.phecode, CAST({counted} AS INTEGER) AS n FROM ({linked}) c "
            "JOIN links m USING (code) GROUP BY c.row, m.phecode ORDER BY m.phecode, c.row"
        ).to_arrow_table()
        with_codes = connection.execute(
            f"SELECT count(DISTINCT row) FROM ({linked})"
        ).fetchall()[0][0]
    found = tuple(pairs[name].to_numpy() for name in ("row", "phecode", "n"))
    report = _mapping(columns["person"], code_of_row, codes, links)
    return ((found[0], found[1], found[2]), int(with_codes)), report


def _codes_of(table: pa.Table) -> tuple[Int[np.ndarray, " row"], list[tuple[str, str]]]:
    """Number of each row's code, and the code and version of each number."""
    code, codes = _encode(table["icd_code"])
    version, versions = _encode(table["icd_version"])
    both = code.astype(np.int32) * len(versions) + version
    return both.astype(np.int32), [(c, v) for c in codes for v in versions]


def _links(codes: Sequence[tuple[str, str]], phecode_map: PhecodeMap) -> pa.Table:
    """Which numbered code leads to which phecode (its position)."""
    number = {code: i for i, code in enumerate(codes)}
    position = {phecode: j for j, phecode in enumerate(phecode_map.info["phecode"])}
    icd = phecode_map.icd
    keys = zip(icd["icd_code"].to_pylist(), icd["icd_version"].to_pylist(), strict=True)
    pairs = [
        (number[key], position[phecode])
        for key, phecode in zip(keys, icd["phecode"].to_pylist(), strict=True)
        if key in number
    ]
    code, phecode = np.array(pairs, dtype=np.int32).reshape(-1, 2).T
    return pa.table({"code": code, "phecode": phecode})


def _mapping(
    person: Int[np.ndarray, " row"],
    code: Int[np.ndarray, " row"],
    codes: Sequence[tuple[str, str]],
    links: pa.Table,
) -> MappingReport:
    of_cohort = np.bincount(code[person >= 0], minlength=len(codes))
    is_mapped = np.zeros(len(codes), dtype=bool)
    is_mapped[links["code"].to_numpy()] = True
    unmapped = [
        (*codes[i], int(of_cohort[i]))
        for i in np.flatnonzero((of_cohort > 0) & ~is_mapped).tolist()
    ]
    unmapped.sort(key=lambda one: (-one[2], one[1], one[0]))
    return MappingReport(
        n_rows=int(of_cohort.sum()),
        n_mapped_rows=int(of_cohort[is_mapped].sum()),
        n_codes=int((of_cohort > 0).sum()),
        n_unmapped_codes=len(unmapped),
        unmapped=tuple(unmapped[:N_UNMAPPED_LISTED]),
        n_rows_of_others=int((person < 0).sum()),
    )


def _counted(
    counts: PhecodeCounts, person_ids: Sequence[str], phecode_map: PhecodeMap
) -> tuple[_Pairs, int]:
    """Pairs of row and phecode of a table of counts, and rows with any."""
    position = {phecode: j for j, phecode in enumerate(phecode_map.info["phecode"])}
    phecode = _looked_up(counts.table["phecode"], position)
    if (phecode < 0).any():
        _, texts = _encode(counts.table["phecode"])
        padded = [text for text in texts if text not in position and _pad(text) in position]
        hint = (
            "leading zeros were lost, keep the column as text"
            if padded
            else f"the map of version {phecode_map.version} has no such phecode"
        )
        raise refusal_of_rows(
            "E_CODE",
            hint,
            np.flatnonzero(phecode < 0),
            column="phecode",
            what="phecode table",
            first_row=counts.first_row,
        )
    first = {person: i for i, person in enumerate(dict.fromkeys(person_ids))}
    person = _looked_up(counts.table["person_id"], first)
    n = counts.table["count"].to_numpy()
    rows = np.array([first[one] for one in person_ids], dtype=np.int64)
    order = np.argsort(rows, kind="stable")  # rows of one person lie together
    starts = np.searchsorted(rows[order], np.arange(len(first) + 1))
    kept = np.flatnonzero(person >= 0)
    times = np.diff(starts)[person[kept]]
    source = np.repeat(kept, times)
    offset = np.arange(len(source)) - np.repeat(np.cumsum(times) - times, times)
    row = order[starts[person[source]] + offset].astype(np.int32)
    ranked = np.lexsort((row, phecode[source]))
    pairs = (row[ranked], phecode[source][ranked], n[source][ranked])
    return pairs, len(np.unique(row))


def _pad(phecode: str) -> str:
    whole, dot, digits = phecode.partition(".")
    return f"{whole.zfill(3)}{dot}{digits}"


def _decide(
    row: Int[np.ndarray, " pair"],
    phecode: Int[np.ndarray, " pair"],
    n: Int[np.ndarray, " pair"],
    sex: np.ndarray,
    phecode_map: PhecodeMap,
    cases: CaseRule,
) -> tuple[PhecodeStatus, pd.DataFrame]:
    """Case status by the rule, one phecode after the other."""
    phecodes = phecode_map.info["phecode"].tolist()
    restrictions = phecode_map.info["sex_restriction"].tolist()
    position = {one: j for j, one in enumerate(phecodes)}
    starts = np.searchsorted(phecode, np.arange(len(phecodes) + 1))
    having = [row[start:stop] for start, stop in pairwise(starts)]
    is_known = np.isin(sex, SEXES)
    of_sex = {one: sex == one for one in SEXES}
    barred = {
        one: np.flatnonzero(~of_sex[one]).astype(np.int32) for one in SEXES
    }  # shared by all phecodes that exclude nobody else
    is_excluded = np.zeros(len(sex), dtype=bool)
    case_rows, excluded_rows, counts = [], [], []
    for j, restriction in enumerate(restrictions):
        enough = n[starts[j] : starts[j + 1]] >= cases.minimum_codes
        few, found = having[j][~enough], having[j][enough]
        related = [
            having[position[other]]
            for other in phecode_map.exclusions.get(phecodes[j], ())
            if cases.use_exclusions and len(having[position[other]])
        ]
        if restriction in of_sex:
            found = found[of_sex[restriction][found]]
            few = few[of_sex[restriction][few]]
        for rows in (few, *related):
            is_excluded[rows] = True
        is_excluded[found] = False
        n_wrong = n_unknown = 0
        if restriction in of_sex:
            n_unknown = int((~is_known).sum())
            n_wrong = len(barred[restriction]) - n_unknown
            is_excluded[barred[restriction]] = True
        excluded = np.flatnonzero(is_excluded).astype(np.int32)
        is_excluded[excluded] = False
        if restriction in of_sex and len(excluded) == len(barred[restriction]):
            excluded = barred[restriction]
        case_rows.append(found)
        excluded_rows.append(excluded)
        n_related = len(excluded) - len(few) - n_wrong - n_unknown
        n_controls = len(sex) - len(found) - len(excluded)
        counts.append((len(found), n_controls, len(few), n_related, n_wrong, n_unknown))
    names = ["cases", "controls", "few_codes", "related", "wrong_sex", "sex_unknown"]
    columns = zip(names, np.array(counts, dtype=np.int64).T, strict=True)
    table = pd.DataFrame({"phecode": phecodes, **dict(columns)})
    status = PhecodeStatus(
        tuple(phecodes), len(sex), tuple(case_rows), tuple(excluded_rows)
    )
    return status, table


def _assemble(version: str, info: pd.DataFrame, icd: pd.DataFrame) -> PhecodeMap:
    """The map of its two tables, checked."""
    info_table, icd_map = "phecode table", "ICD map"
    phecodes, known = info["phecode"].tolist(), set(info["phecode"])
    ranges = info["exclude_range"].tolist() if "exclude_range" in info else []
    exclusions = {
        phecode: tuple(part.strip() for part in text.split(","))
        for phecode, text in zip(phecodes, ranges, strict=False)
        if text
    }
    is_strange = [not known.issuperset(exclusions.get(p, ())) for p in phecodes]
    _refuse_where(is_strange, "exclude_range", info_table, "a phecode is not in the table")
    is_strange = [sex not in ("Both", *SEXES) for sex in info["sex"]]
    _refuse_where(is_strange, "sex", info_table, "it is not Both, Female or Male")
    versions = [ICD_VERSIONS.get(text.upper(), "") for text in icd["flag"]]
    is_strange = [not text for text in versions]
    _refuse_where(is_strange, "flag", icd_map, "the version is not 9 or 10")
    codes = [text.upper().replace(".", "") for text in icd["ICD"]]
    is_short = [len(code) < 3 for code in codes]
    _refuse_where(is_short, "ICD", icd_map, "the code has lost its leading zeros")
    rolled = "phecode_unrolled" if "phecode_unrolled" in icd else "phecode"
    for name in ("phecode", rolled):
        is_strange = [phecode not in known for phecode in icd[name]]
        _refuse_where(is_strange, name, icd_map, "the phecode table does not have it")
    rows = zip(codes, versions, icd[rolled], strict=True)
    if rolled == "phecode":
        above = {p: [p, *(a for a in ancestors(p) if a in known)] for p in phecodes}
        rows = ((code, icd_version, p) for code, icd_version, q in rows for p in above[q])
    unique = list(zip(*dict.fromkeys(rows), strict=True))
    names = ("icd_code", "icd_version", "phecode")
    category = {c: i for i, c in enumerate(dict.fromkeys(info["phecode_category"]))}
    place = [
        (category[c], phecode_order(p))
        for p, c in zip(phecodes, info["phecode_category"], strict=True)
    ]
    ordered = info.iloc[sorted(range(len(info)), key=place.__getitem__)]
    return PhecodeMap(
        version,
        pd.DataFrame(
            {
                "phecode": ordered["phecode"].tolist(),
                "phecode_string": ordered["phecode_string"].tolist(),
                "phecode_category": ordered["phecode_category"].tolist(),
                "sex_restriction": ordered["sex"].tolist(),
            }
        ),
        pa.table({n: pa.array(c, pa.string()) for n, c in zip(names, unique, strict=True)}),
        exclusions,
        CITATIONS.get(version, f"Phecode map {version}, given by the user."),
    )


def _refuse_where(is_refused: Sequence[bool], column: str, what: str, reason: str) -> None:
    rows = np.flatnonzero(is_refused)
    if len(rows):
        raise refusal_of_rows("E_CODE", reason, rows, column=column, what=what)
