"""Seizure probabilities of a recording that arrives piece by piece."""
