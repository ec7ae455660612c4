"""What every layer may import: reductions, names, trees."""
from kt_jax.core.bind import bind as bind
from kt_jax.core.check import check_logits as check_logits
from kt_jax.core.names import nearest as nearest
from kt_jax.core.names import resolve as resolve
from kt_jax.core.names import UserError as UserError
from kt_jax.core.reduce import masked_mean as masked_mean
from kt_jax.core.reduce import masked_sum as masked_sum
from kt_jax.core.reduce import to_float as to_float
from kt_jax.core.tree import flatten as flatten
from kt_jax.core.tree import fold_path as fold_path
from kt_jax.core.tree import path_str as path_str
