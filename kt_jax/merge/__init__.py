"""Merge operators on leaves, and what lifts them to whole models.

A leaf operator is `op(base [...], models [T, ...], weight [T], *extras,
**settings) -> [...]`; T counts the models. `over_tree` runs it on pytrees.
"""
from kt_jax.merge.lift import over_tree as over_tree
from kt_jax.merge.linear import linear as linear
