"""Diagnoses are read fast, and as strictly as every other table."""

import gzip
from datetime import date, datetime

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from phenokit.errors import BadInput
from phenokit.readers.diagnoses import read_diagnoses, read_phecode_counts
from phenokit.readers.tables import Column, parse_table

HEADER = "person_id,icd_code,icd_version,date\n"


@pytest.fixture
def read(tmp_path):
    """`read(text or bytes or columns)`: the diagnoses of a file that holds them."""

    def read(content, reader=read_diagnoses):
        path = tmp_path / "table"
        if isinstance(content, dict):
            pq.write_table(pa.table(content), path)
        else:
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        return reader(path)

    return read


def refused(read, content, reader=read_diagnoses):
    with pytest.raises(BadInput) as caught:
        read(content, reader)
    return caught.value


GOOD = HEADER + "007,i21.4,10,2020-02-29\n7,V707,9,2014-01-01\n007,E812.0,9,2014-01-01\n"
ROWS = [
    ("007", "I214", "10", date(2020, 2, 29)),
    ("7", "V707", "9", date(2014, 1, 1)),
    ("007", "E8120", "9", date(2014, 1, 1)),
]


def test_codes_lose_their_dot_and_ids_nothing(read):
    assert [tuple(row.values()) for row in read(GOOD).table.to_pylist()] == ROWS


def test_a_packed_table_reads_as_the_plain_one(read):
    assert read(gzip.compress(GOOD.encode())).table.equals(read(GOOD).table)


@pytest.mark.parametrize(
    "days",
    [
        [row[3] for row in ROWS],
        [row[3].isoformat() for row in ROWS],
        [datetime.combine(row[3], datetime.min.time()) for row in ROWS],
    ],
    ids=["dates", "text", "timestamps"],
)
def test_parquet_reads_as_csv(read, days):
    columns = {
        "person_id": ["007", "7", "007"],
        "icd_code": ["I21.4", "v70.7", "E8120"],
        "icd_version": pa.array([10, 9, 9], pa.int8()),
        "date": days,
        "else": [1.5, None, 2.5],
    }
    assert [tuple(row.values()) for row in read(columns).table.to_pylist()] == ROWS


@pytest.mark.parametrize(
    "header", ["person_id,ICD,flag,date\n", "subject_id,ICD,vocabulary_id,date\n"]
)
def test_columns_of_other_projects_are_known_by_their_names(read, header):
    body = GOOD.removeprefix(HEADER).replace(",10,", ",ICD10CM,").replace(",9,", ",icd9cm,")
    assert [tuple(row.values()) for row in read(header + body).table.to_pylist()] == ROWS


def test_a_code_outside_any_admission_keeps_an_empty_one(read):
    found = read("person_id,icd_code,icd_version,admission_id\n1,I10,10,\n1,I10,10,a\n")
    assert found.table["admission_id"].to_pylist() == ["", "a"]
    assert "date" not in found.table.column_names


@pytest.mark.parametrize(
    ("row", "code", "column", "words"),
    [
        ("1,8.5,9,2020-01-01", "E_CODE", "icd_code", "lost its leading zeros"),
        ("1,86,9,2020-01-01", "E_CODE", "icd_code", "lost its leading zeros"),
        ("1,I21.4,9,2020-01-01", "E_CODE", "icd_code", "only be of version 10"),
        ("1,410.71,10,2020-01-01", "E_CODE", "icd_code", "only be of version 9"),
        ("1,4280.0,9,2020-01-01", "E_CODE", "icd_code", "not of the form of ICD-9-CM"),
        ("1,I2.14,10,2020-01-01", "E_CODE", "icd_code", "not of the form of ICD-10-CM"),
        ("1, I214,10,2020-01-01", "E_CODE", "icd_code", "not of the form"),
        ("1,I٢1,10,2020-01-01", "E_CODE", "icd_code", "not of the form"),
        ("1,I214,11,2020-01-01", "E_CODE", "icd_version", "not 9 or 10"),
        ("1,I214,SNOMED,2020-01-01", "E_CODE", "icd_version", "not 9 or 10"),
        ("1,,10,2020-01-01", "E_RANGE", "icd_code", "empty"),
        ("1,I214,,2020-01-01", "E_RANGE", "icd_version", "empty"),
        (",I214,10,2020-01-01", "E_RANGE", "person_id", "empty"),
        ("1,I214,10,", "E_DATE", "date", "format"),
        ("1,I214,10,01/02/2020", "E_DATE", "date", "format"),
        ("1,I214,10,2019-02-29", "E_DATE", "date", "format"),
    ],
)
def test_a_damaged_cell_is_refused_by_column_and_rows(read, row, code, column, words):
    good = "1,I21.4,10,2020-01-01\n"
    error = refused(read, HEADER + good + row + "\n" + good + row + "\n")
    assert (error.code, error.where) == (code, f"column {column}, rows 3, 5")
    assert words in str(error)
    assert "I214" not in str(error)


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (HEADER, "E_EMPTY"),
        ("", "E_EMPTY"),
        (HEADER + "1,I214,10\n", "E_COLUMNS"),
        (HEADER + "1,I214,10,2020-01-01\n\n1,I214,10,2020-01-01\n", "E_COLUMNS"),
        (HEADER + "1,I214,10,2020-01-01\n\n", "E_COLUMNS"),
        ("person_id,icd_code,icd_code,icd_version\n1,2,3,4\n", "E_COLUMNS"),
        ("person_id,icd_code\n1,I214\n", "E_COLUMNS"),
        ("person_id;icd_code;icd_version\n1;I214;10\n", "E_COLUMNS"),
        (HEADER.encode() + b"1,I214,10,2020-\x00\n", "E_ENCODING"),
        (HEADER.encode() + b"\xff,I214,10,2020-01-01\n", "E_ENCODING"),
        (HEADER + '1,"I214,10,2020-01-01\n', "E_COLUMNS"),
    ],
)
def test_a_damaged_table_gets_the_words_of_the_strict_reader(read, content, code):
    error = refused(read, content)
    assert error.code == code
    schema = [Column(name) for name in HEADER.strip().split(",")[:3]]
    schema.append(Column("date", is_required=False))
    data = content if isinstance(content, bytes) else content.encode()
    with pytest.raises(BadInput) as strict:
        parse_table(data, schema, what="diagnoses table")
    if strict.value.where:
        assert str(error) == str(strict.value)


def test_quoted_cells_with_newlines_keep_the_rows_apart(read):
    text = 'note,person_id,icd_code,icd_version\n"a\n""b"",",1,I10,10\nc,"2",E119,10\n'
    table = read(text).table
    assert table["person_id"].to_pylist() == ["1", "2"]
    assert table["icd_code"].to_pylist() == ["I10", "E119"]


@pytest.mark.parametrize(
    ("columns", "code", "words"),
    [
        ({"icd_code": [410.71, 8.5]}, "E_CODE", "stored as numbers"),
        ({"icd_code": [4280, 4019]}, "E_CODE", "stored as numbers"),
        ({"icd_code": [None, "I10"]}, "E_RANGE", "row 1: the cell is empty"),
        ({"person_id": [1.0, 2.0]}, "E_RANGE", "text or whole numbers"),
        ({"date": [1.0, 2.0]}, "E_DATE", "does not hold dates"),
        ({"date": [None, date(2020, 1, 1)]}, "E_DATE", "row 1"),
    ],
)
def test_parquet_of_a_type_that_lost_something_is_refused(read, columns, code, words):
    good = {"person_id": ["1", "2"], "icd_code": ["I10", "I10"], "icd_version": [10, 10]}
    error = refused(read, good | columns)
    assert error.code == code
    assert words in str(error)


def test_damaged_parquet_is_refused(read, tmp_path):
    columns = {"person_id": ["1"], "icd_code": ["I10"], "icd_version": ["10"]}
    pq.write_table(pa.table(columns), tmp_path / "whole")
    data = (tmp_path / "whole").read_bytes()
    assert refused(read, data[:-20]).code == "E_FORMAT"


def test_many_rows_at_fault_are_named_up_to_ten(read):
    rows = "1,I10,10,2020-01-01\n" * 5 + "1,8,9,2020-01-01\n" * 15
    where = refused(read, HEADER + rows).where
    assert where == "column icd_code, rows " + ", ".join(map(str, range(7, 17))) + (
        " and 5 more"
    )


def test_large_tables_come_whole_and_in_order(read):
    rng = np.random.default_rng(0)
    persons = rng.integers(0, 50_000, 200_000)
    codes = rng.choice(["I10", "E11.9", "i48.91"], 200_000)
    body = "".join(f"{p},{c},10,\n" for p, c in zip(persons, codes, strict=True))
    table = read("person_id,icd_code,icd_version,admission_id\n" + body).table
    assert table["person_id"].to_pylist() == [str(p) for p in persons]
    normal = [code.upper().replace(".", "") for code in codes.tolist()]
    assert table["icd_code"].to_pylist() == normal


COUNTS = "person_id,phecode,count\n"


def test_counts_keep_phecodes_as_text(read):
    counts = read(COUNTS + "1,008,2\n1,8,1\n2,008,3\n", read_phecode_counts)
    assert counts.table["phecode"].to_pylist() == ["008", "8", "008"]
    assert counts.table["count"].to_pylist() == [2, 1, 3]


@pytest.mark.parametrize(
    ("content", "code", "where"),
    [
        (COUNTS + "1,008,2\n2,008,1\n1,008,1\n", "E_DUP_ID", "column phecode, row 4"),
        (COUNTS + "1,008,0\n", "E_RANGE", "column count, row 2"),
        (COUNTS + "1,008,1.5\n", "E_RANGE", "column count, row 2"),
        (
            {"person_id": ["1"], "phecode": [8.0], "count": [1]},
            *("E_CODE", "column phecode, row 1"),
        ),
    ],
)
def test_damaged_counts_are_refused(read, content, code, where):
    error = refused(read, content, read_phecode_counts)
    assert (error.code, error.where) == (code, where)
