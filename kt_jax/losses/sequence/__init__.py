"""Losses on the token distributions of language models."""
