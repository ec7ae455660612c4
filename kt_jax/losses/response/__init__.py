"""Losses on logits, most of them of one example at a time."""
