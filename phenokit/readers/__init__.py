"""File to Recording or table, behind strict checks."""
