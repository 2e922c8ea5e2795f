"""A query reaches nothing but the tables that are given to it."""

import pandas as pd
import pytest

from phenokit.readers.connection import open_duckdb

secret = pd.DataFrame({"a": [1]})


@pytest.mark.parametrize(
    "query",
    [
        "SELECT * FROM read_text('/etc/hostname')",
        "SELECT * FROM read_csv('/etc/hostname')",
        "SELECT * FROM '/etc/hostname'",
        "COPY (SELECT 1) TO 'x.csv'",
        "ATTACH 'x.db'",
        "INSTALL httpfs",
        "SET enable_external_access = true",
        "SELECT * FROM secret",
    ],
)
def test_files_addresses_settings_and_variables_are_out_of_reach(
    query, tmp_path, monkeypatch
):
    import duckdb

    monkeypatch.chdir(tmp_path)
    with open_duckdb() as connection, pytest.raises(duckdb.Error):
        connection.execute(query).fetchall()
    assert list(tmp_path.iterdir()) == []
