"""Gradient descent on a few numbers from which a model is computed."""
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax import numpy as jnp
import optax


class DescentState(NamedTuple):
  """The state of a descent, a pytree of arrays."""
  theta: Any  # the learned numbers, any pytree
  opt_state: Any
  count: jax.Array  # number of steps


class Descent(NamedTuple):
  """`init(theta)` and `step(state, *args)`, as `descend` makes them."""
  init: Callable[..., DescentState]
  step: Callable[..., tuple[DescentState, jax.Array]]


def descend(loss: Callable[..., jax.Array],
            optimizer: optax.GradientTransformation) -> Descent:
  """Minimizes `loss(theta, *args)` over theta, one compiled step at a time.

  Args:
    loss: theta and the arguments of a step -> scalar. Pass models and data as
      arguments: arrays in its closure are compiled in as constants.
    optimizer: from optax.

  Returns:
    `Descent(init, step)`: `init(theta)` is the first state, a pytree of arrays;
    `step(state, *args)` returns `(state, loss before the step)`.

  """
  def init(theta) -> DescentState:
    # Copies: a donated or saved state must not alias the caller's arrays.
    theta = jax.tree.map(lambda x: jnp.array(x, copy=True), theta)
    return DescentState(theta, optimizer.init(theta), jnp.zeros((), jnp.int32))

  @jax.jit
  def step(state: DescentState, *args):
    value, grads = jax.value_and_grad(loss)(state.theta, *args)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.theta)
    theta = optax.apply_updates(state.theta, updates)
    return DescentState(theta, opt_state, state.count + 1), value

  return Descent(init, step)
