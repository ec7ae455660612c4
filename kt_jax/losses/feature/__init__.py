"""Losses on activations: one example's features against the teacher's."""
