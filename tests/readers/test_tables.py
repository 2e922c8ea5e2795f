"""CSV tables are read by their schema or refused, rows named and values not."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phenokit.errors import BadInput
from phenokit.readers import tables
from phenokit.readers.tables import Column, parse_table, read_table

PERSON = Column("person_id", unique=True)
AGE = Column("age", "number", low=0, high=120)
CASE = Column("case", "binary")


def refused(data: bytes, *columns: Column) -> BadInput:
    with pytest.raises(BadInput) as caught:
        parse_table(data, columns)
    return caught.value


def test_parse_table_keeps_ids_and_codes_byte_for_byte():
    ids = [
        "007",
        "7",
        "NA",
        "1e5",
        "12345678901234567890",
        " 7",
        "e\u0301",
        "\u00e9",
        "None",
    ]
    data = "\n".join(["person_id", *ids]) + "\n"
    assert parse_table(data.encode(), [PERSON])["person_id"].tolist() == ids


def test_parse_table_reads_each_kind():
    columns = [
        *(PERSON, AGE, CASE, Column("n", "integer"), Column("prevalence", "prevalence")),
        *(Column("d", "date", date_format="%d.%m.%Y"), Column("t", "time")),
    ]
    data = (
        b"t,d,person_id,age,case,n,prevalence\n"
        b"2024-03-31T02:30:00+02:00,01.02.2024,1, 6.1e1,1,-3,.25\n"
        b"2024-03-31 00:30Z,29.02.2024,2,0,0,+4,1e-3\n"
    )
    table = parse_table(data, columns)
    assert list(table) == [column.name for column in columns]
    assert table["age"].tolist() == [61.0, 0.0]
    assert table["case"].dtype == table["n"].dtype == np.int64
    assert table["prevalence"].tolist() == [0.25, 0.001]
    assert table["d"].tolist() == [pd.Timestamp("2024-02-01"), pd.Timestamp("2024-02-29")]
    assert table["t"].tolist() == [pd.Timestamp("2024-03-31 00:30", tz="UTC")] * 2


def test_parse_table_reads_quoted_cells_byte_order_mark_and_windows_lines():
    data = b'\xef\xbb\xbfperson_id,note\r\n1,"a, ""b""\r\nc"\r\n2,d\r\n'
    table = parse_table(data, [PERSON, Column("note")])
    assert table["note"].tolist() == ['a, "b"\r\nc', "d"]


@pytest.mark.parametrize(
    ("data", "code", "where"),
    [
        (b"person_id\nM\xfcller\n", "E_ENCODING", "byte 11"),
        (b"\xff\xfep\0e\0", "E_ENCODING", "byte 0"),
        (b"person_id\n1\0\n", "E_ENCODING", "byte 11"),
        (b"person_id\n1\0\n\xff", "E_ENCODING", "byte 11"),
        (b"", "E_EMPTY", ""),
        (b"person_id\n", "E_EMPTY", ""),
        (b"person_id,person_id\n1,2\n", "E_COLUMNS", "column person_id"),
        (b"person_id,x\n1,2\n", "E_COLUMNS", "column 2"),
        (b"age\n1\n", "E_COLUMNS", "column 1"),
        (b"person_id\n1\n2,3\n", "E_COLUMNS", "row 3"),
        (b"person_id\n1\n\n", "E_COLUMNS", "row 3"),
        (b'person_id\n"1\n', "E_COLUMNS", "line 2"),
        (b'person_id\n"1"2\n', "E_COLUMNS", "line 2"),
        (b"person_id\n1\n2\n1\n", "E_DUP_ID", "column person_id, rows 2, 4"),
        (b'person_id\n""\n', "E_RANGE", "column person_id, row 2"),
    ],
)
def test_parse_table_refuses_the_whole_table_and_says_where(data, code, where):
    error = refused(data, PERSON)
    assert (error.code, error.where) == (code, where)


@pytest.mark.parametrize(
    ("kind", "cell", "code"),
    [
        *(("number", cell, "E_NONFINITE") for cell in ("inf", "-Infinity", "NaN", "1e999")),
        *(
            ("number", cell, "E_RANGE")
            for cell in ("1_000", "0x1F", "61,5", "\u0661", "a", "121")
        ),
        *(("integer", cell, "E_RANGE") for cell in ("1.0", "1e3", "9" * 16)),
        *(("binary", cell, "E_RANGE") for cell in ("2", "-1", "true", "0.5")),
        *(("prevalence", cell, "E_PREVALENCE") for cell in ("0", "1", "1.5", "nan", "5%")),
        *(("date", cell, "E_DATE") for cell in ("01/02/2024", "2024-02-30", "2024")),
        *(("time", cell, "E_TIMEZONE") for cell in ("2024-03-31 02:30:00",)),
        *(("time", cell, "E_DATE") for cell in ("31.3.2024 02:30Z", "2024-02-30T00:00Z")),
        ("number", "", "E_NONFINITE"),
    ],
)
def test_parse_table_refuses_the_cell_by_row_and_not_by_value(kind, cell, code):
    column = Column("x", kind, low=0, high=120)
    error = refused(f'x\n"{cell}"\n'.encode(), column)
    assert (error.code, error.where) == (code, "column x, row 2")
    assert len(cell) < 3 or cell not in str(error)


def test_parse_table_names_all_rows_up_to_ten():
    data = b"age\n" + b"999\n" * 12 + b"61\n"
    assert "rows 2, 3, 4, 5, 6, 7, 8, 9, 10, 11 and 2 more" in str(refused(data, AGE))


def test_parse_table_tells_the_first_of_several_faults_by_precedence():
    data = b"person_id,age\n1,-5\n2,nan\n1,61\n"
    assert refused(data, PERSON, AGE).code == "E_DUP_ID"
    assert refused(data.replace(b"\n1,61", b"\n3,61"), PERSON, AGE).code == "E_RANGE"


def test_parse_table_hints_at_another_separator():
    error = refused(b"person_id;age\n1;61\n", PERSON, AGE)
    assert error.code == "E_COLUMNS"
    assert "separated by semicolons" in str(error)
    table = parse_table(b"person_id;age\n1;61\n", [PERSON, AGE], separator=";")
    assert table["age"].tolist() == [61]


def test_parse_table_leaves_missing_cells_missing_only_where_it_may():
    columns = [Column("x", "number", may_be_missing=True), Column("c", may_be_missing=True)]
    table = parse_table(b'x,c\n,""\n1,a\n', columns)
    np.testing.assert_array_equal(table["x"], [np.nan, 1])
    assert table["c"].tolist() == ["", "a"]


def test_parse_table_leaves_other_columns_out_on_request_only():
    data = b"note,person_id\nx,1\n"
    assert refused(data, PERSON).where == "column 1"
    assert list(parse_table(data, [PERSON], ignore_others=True)) == ["person_id"]


def test_parse_table_names_the_row_of_a_long_table(monkeypatch):
    monkeypatch.setattr(tables, "_ROWS_AT_ONCE", 3)
    data = b"person_id\n" + b"".join(b"%d\n" % row for row in range(10))
    assert len(parse_table(data, [PERSON])) == 10
    assert refused(data + b"1,2\n", PERSON).where == "row 12"
    assert refused(data + b"4\n", PERSON).where == "column person_id, rows 6, 12"


def test_read_table_refuses_a_url_and_a_link(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"person_id\n1\n")
    (tmp_path / "link.csv").symlink_to("a.csv")
    assert read_table(tmp_path / "a.csv", [PERSON])["person_id"].tolist() == ["1"]
    for path in ("http://x.invalid/a.csv", tmp_path / "link.csv"):
        with pytest.raises(BadInput) as caught:
            read_table(tables.Path(path), [PERSON])
        assert caught.value.code == "E_PATH"


@given(st.binary(max_size=80) | st.text('01ab.,;"\n\r-é+e', max_size=80))
@settings(max_examples=200, deadline=None)
def test_parse_table_raises_nothing_but_bad_input(tail):
    data = b"person_id,age\n1," + (tail if isinstance(tail, bytes) else tail.encode())
    try:
        table = parse_table(data, [PERSON, AGE])
    except BadInput:
        return
    assert table["person_id"].is_unique
    assert table["age"].between(0, 120).all()
