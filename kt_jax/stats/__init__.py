"""Statistics of a model on data: (fn, params, batches) -> pytree.

Batches are dicts with `images [B, ...]` and, where a batch is filled up,
`where` bool `[B]`; sums and counts run over them, so that neither the size of a
batch nor its padding nor its sharding changes more than rounding. T models'
results go to merge operators by `as_rules`.
"""
from kt_jax.stats.as_rules import as_rules as as_rules
from kt_jax.stats.fisher import fisher as fisher
from kt_jax.stats.gram import gram as gram
