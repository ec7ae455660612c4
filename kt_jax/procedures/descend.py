"""Gradient descent on a few numbers from which a model is made."""
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax import numpy as jnp
import optax


class DescentState(NamedTuple):
  theta: Any  # what is learned, any pytree
  opt_state: Any  # of the optimiser
  count: jax.Array  # steps done


class Descent(NamedTuple):
  """`init(theta)` and `step(state, *args)`, as `descend` makes them."""
  init: Callable[..., DescentState]
  step: Callable[..., tuple[DescentState, jax.Array]]


def descend(loss: Callable[..., jax.Array],
            optimizer: optax.GradientTransformation) -> Descent:
  """Minimises `loss(theta, *args)` over theta, one compiled step at a time.

  Args:
    loss: theta and what a step is given -> scalar. Pass models and data as
      arguments: what it closes over is compiled in as constants.
    optimizer: from optax.

  Returns:
    `Descent(init, step)`: `init(theta)` is the first state, a pytree of arrays;
    `step(state, *args)` gives `(state, loss before the step)`.

  Departures: none.

  References: none.
  """
  def init(theta) -> DescentState:
    # Copies: a donated or saved state must not alias what the caller keeps.
    theta = jax.tree.map(lambda x: jnp.array(x, copy=True), theta)
    return DescentState(theta, optimizer.init(theta), jnp.zeros((), jnp.int32))

  @jax.jit
  def step(state: DescentState, *args):
    value, grads = jax.value_and_grad(loss)(state.theta, *args)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.theta)
    theta = optax.apply_updates(state.theta, updates)
    return DescentState(theta, opt_state, state.count + 1), value

  return Descent(init, step)
