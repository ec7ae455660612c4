"""Losses on activations, one example at a time."""
