"""Launches experiments: config files, overrides, sweeps, reports."""
