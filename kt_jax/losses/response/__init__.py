"""Losses that read logits, most of them those of one example at a time."""
