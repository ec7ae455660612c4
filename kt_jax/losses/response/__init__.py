"""Losses that read the logits of one example at a time."""
