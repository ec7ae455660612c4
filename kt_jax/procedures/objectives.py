"""Objectives `loss(params, batch) -> scalar` for learned coefficients.

`forward(params, inputs) -> logits [B, K]` is the user's; heads and statistics
in its closure stay frozen.
"""
from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax import numpy as jnp

from kt_jax import core
from kt_jax import losses

Forward = Callable[[Any, jax.Array], jax.Array]
Objective = Callable[[Any, Any], jax.Array]


def cross_entropy_objective(forward: Forward) -> Objective:
  """Mean cross entropy with labels, in nats.

  The few-shot problem has this objective on a few examples per class, without
  the task's own vector among the models.

  Args:
    forward: params and inputs -> logits.

  Returns:
    `loss(params, batch)`, batch `dict(inputs [B, ...], labels [B])`.

  References: zhang2024atlas (addition, few-shot).
  """
  return lambda params, batch: jnp.mean(losses.cross_entropy(
      forward(params, batch['inputs']), batch['labels']))


def entropy_objective(forward: Forward) -> Objective:
  """Mean entropy of the predictions, in nats: no labels are needed.

    H = -sum_k p_k log p_k,   p = softmax(z)

  The paper minimizes it on the inputs of the test set (transductive learning).

  Args:
    forward: params and inputs -> logits.

  Returns:
    `loss(params, batch)`, batch `dict(inputs [B, ...])`.

  References: yang2023adamerging.
  """
  def loss(params, batch):
    log_p = jax.nn.log_softmax(core.to_float(forward(params, batch['inputs'])))
    # A class masked by -inf adds 0.
    term = jnp.where(jnp.isfinite(log_p), jnp.exp(log_p) * log_p, 0)
    return -jnp.mean(jnp.sum(term, axis=-1))
  return loss


def negation_objective(forward: Forward) -> Objective:
  """Unlearns a target while a control stays: CE(control) - CE(target).

  Unbounded below: stop when the control's accuracy falls (in the paper, below
  95% of the base's).

  Args:
    forward: params and inputs -> logits.

  Returns:
    `loss(params, batch)`, batch `dict(target=..., control=...)`, each a batch
    of `cross_entropy_objective`.

  References: zhang2024atlas (negation).
  """
  loss = cross_entropy_objective(forward)
  return lambda params, batch: (
      loss(params, batch['control']) - loss(params, batch['target']))


def task_sum_objective(objectives: Mapping[str, Objective]) -> Objective:
  """Sum of the objectives of several tasks, each with its own head.

  Args:
    objectives: task -> objective.

  Returns:
    `loss(params, batch)`, batch `{task: batch of that task}`.

  References: yang2023adamerging; zhang2024atlas (addition).
  """
  return lambda params, batch: jnp.asarray(sum(
      objective(params, batch[task]) for task, objective in objectives.items()))
