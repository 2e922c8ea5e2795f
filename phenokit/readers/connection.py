"""DuckDB, opened so that a query reaches nothing but the tables that are given to it."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import duckdb


def open_duckdb() -> "duckdb.DuckDBPyConnection":
    """A database in memory that opens no file, no address and no variable of Python.

    To be used in a ``with`` block. The settings are locked.
    """
    import duckdb

    return duckdb.connect(
        ":memory:",
        config={
            "enable_external_access": False,
            "python_enable_replacements": False,
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
            "lock_configuration": True,
        },
    )
