"""Losses on relations between examples, tokens, channels or layers."""
