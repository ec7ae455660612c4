"""Losses on how examples, tokens, channels or layers relate to one another."""
