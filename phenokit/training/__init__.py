"""Fit, project, calibrate, evaluate: the only code that changes weights."""
