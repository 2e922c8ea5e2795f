"""Recordings and cohorts with known truth."""
