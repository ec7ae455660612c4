"""Merges whose coefficients are learned by gradient descent."""
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax import numpy as jnp
import optax

from kt_jax import merge
from kt_jax.procedures.descend import descend
from kt_jax.procedures.descend import DescentState
from kt_jax.procedures.merge_per_leaf import merge_per_leaf


class LearnedMerge(NamedTuple):
  """`init`, `step` and `params`, as `learned_coefficients` returns them."""
  init: Callable[..., DescentState]
  step: Callable[..., tuple[DescentState, jax.Array]]
  params: Callable[..., dict[str, jax.Array]]


def learned_coefficients(
    objective: Callable[[Any, Any], jax.Array],
    optimizer: optax.GradientTransformation, op=merge.linear, *,
    bounds: tuple[float, float] | None = None, **settings) -> LearnedMerge:
  """Learns the weights of a merge through its operator.

    c* = argmin_c loss(op(base, models, c), batch)

  With `linear`, base + sum_t c_t (m_t - base): per model and leaf that is aTLAS
  and layer-wise AdaMerging, per model task-wise AdaMerging. With `ties` and
  plain sums it is AdaMerging++.

    learned = learned_coefficients(entropy_objective(forward), optax.adam(1e-3))
    state = learned.init(init_coefficients(base, T, value=0.3))
    state, loss = learned.step(state, base, models, batch)
    merged = learned.params(state.theta, base, models)

  Args:
    objective: `loss(params, batch)`, such as those of this package.
    optimizer: from optax. AdaMerging: `adam(1e-3)`, from 0.3, 500 steps. aTLAS:
      from 0, AdamW with weight decay 0.1 (a pull to the base), gradients
      clipped to norm 1, lr 1e-1 few-shot, 1e-3 for addition. Adam moves a
      coefficient by about lr per step: choose lr times steps of 1 and more.
    op: a leaf operator whose result has a gradient in its weights.
    bounds: range to which coefficients are clipped before the merge; outside of
      it they have no gradient.
    **settings: of `op` and of `over_tree` (rules, key).

  Returns:
    `init(coefficients)` -> state, a pytree of arrays; `coefficients` from
    `init_coefficients`.
    `step(state, base, models, batch, parts=None)` -> `(state, loss)`; compiled
    once. `parts` from `random_parts` where coefficients are `[T, P]`.
    `params(coefficients, base, models, parts=None)` -> merged parameters.

  Departures: AdaMerging's code clips coefficients to [0, 1], its paper does
    not: `bounds=(0, 1)` is the code. aTLAS's pseudo-labels (UFM) are missing;
    `entropy_objective` takes their place.

  References: yang2023adamerging; zhang2024atlas.
  """
  def params(coefficients, base, models, parts=None):
    if bounds is not None:
      coefficients = {name: jnp.clip(c, *bounds)
                      for name, c in coefficients.items()}
    return merge_per_leaf(op, base, models, coefficients, parts=parts,
                          **settings)

  def loss(coefficients, base, models, batch, parts=None):
    return objective(params(coefficients, base, models, parts), batch)

  descent = descend(loss, optimizer)
  return LearnedMerge(descent.init, descent.step, params)
