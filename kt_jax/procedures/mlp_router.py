"""A small network that weights experts for each input."""
from collections.abc import Callable
from typing import NamedTuple

import jax
from jax import numpy as jnp
import optax

from kt_jax import core
from kt_jax import losses
from kt_jax.procedures.descend import descend
from kt_jax.procedures.descend import DescentState


class Router(NamedTuple):
  """`init`, `step` and `weights`, as `mlp_router` returns them."""
  init: Callable[..., DescentState]
  step: Callable[..., tuple[DescentState, jax.Array]]
  weights: Callable[..., jax.Array]


def mlp_router(experts: int, optimizer: optax.GradientTransformation | None
               = None, *, width: int | None = None, dropout: float = 0.5
               ) -> Router:
  """Trains an MLP d - width - width - K on features and task numbers.

    r(x) = softmax(MLP(features of the shared model))

  Args:
    experts: K.
    optimizer: from optax; None: Adam at 5e-4.
    width: of the hidden layers; None: 2 d.
    dropout: share of hidden units set to 0 in training.

  Returns:
    `init(key, features [B, d])` -> state; features are standardized by these.
    `step(state, key, features, tasks [B])` -> `(state, loss)`.
    `weights(theta, features)` -> `[B, K]`, rows that sum to 1; theta is the
    state's.

  Departures: the public code has BatchNorm where the inputs are standardized by
    the first features here, and selects its router on the test set.

  References: lu2024twin (dynamic merging).
  """
  core.check_fraction('mlp_router', dropout=dropout)
  if optimizer is None:
    optimizer = optax.adam(5e-4)
  # Weight decay must not change the standardization.
  optimizer = optax.multi_transform(
      dict(layers=optimizer, standard=optax.set_to_zero()),
      dict(layers='layers', standard='standard'))

  def logits(theta, features, key=None):
    mean, scale = theta['standard']
    h = (core.to_float(features) - mean) * scale
    for number, (kernel, bias) in enumerate(theta['layers']):
      h = h @ kernel + bias
      if number < len(theta['layers']) - 1:
        h = jax.nn.leaky_relu(h)
        if key is not None and dropout:
          keep = jax.random.bernoulli(jax.random.fold_in(key, number),
                                      1 - dropout, h.shape)
          h = jnp.where(keep, h / (1 - dropout), 0)
    return h

  def loss(theta, key, features, tasks):
    return jnp.mean(losses.cross_entropy(logits(theta, features, key), tasks))

  descent = descend(loss, optimizer)

  def init(key, features) -> DescentState:
    features = core.to_float(jnp.asarray(features))
    d = features.shape[-1]
    hidden = width or 2 * d
    sizes = [d, hidden, hidden, experts]
    layers = [(jax.random.normal(k, (m, n)) * (2 / m)**0.5, jnp.zeros(n))
              for k, m, n in zip(jax.random.split(key, 3), sizes, sizes[1:])]
    std = jnp.std(features, axis=0)
    # The mean of a constant is rounded: its deviation need not be 0.
    noise = 8 * jnp.finfo(std.dtype).eps * jnp.max(jnp.abs(features), axis=0)
    standard = (jnp.mean(features, axis=0), 1 / jnp.where(std > noise, std, 1))
    return descent.init(dict(layers=layers, standard=standard))

  return Router(init, descent.step,
                lambda theta, features: jax.nn.softmax(logits(theta, features)))
