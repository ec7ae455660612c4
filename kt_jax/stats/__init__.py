"""Statistics of a model on data: (fn, params, batches) -> pytree.

Batches are dicts with `images [B, ...]` and, where a batch is padded, `where`
bool `[B]`; sums and counts run over all batches, so that their sizes, padding
and sharding change rounding only. `as_rules` passes the statistics of T models
to merge operators.
"""
from kt_jax.stats.as_rules import as_rules as as_rules
from kt_jax.stats.fisher import fisher as fisher
from kt_jax.stats.gram import gram as gram
