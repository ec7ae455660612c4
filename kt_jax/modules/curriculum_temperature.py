"""A temperature learned against the student."""
import math

from flax import nnx
import jax
from jax import numpy as jnp

from kt_jax import core
from kt_jax.modules._pooled import valid


class CurriculumTemperature(nnx.Module):
  r"""Ascends the loss that the student descends, with growing weight.

    tau = start + span sigmoid(u),

  where u is one number, or the output of a small network on the probabilities
  of student and teacher. The gradient of u is reversed and scaled by

    lambda = peak (1 - cos(pi min(step / steps, 1))) / 2,

  so that the temperature is constant at first and becomes an adversary.

  Arrays, by name:
    student_logits, teacher_logits: `[B, K]`, at construction and call.
    step: at the call, scalar integer, the number of updates so far.
    where: `[B]` bool, at the call, the valid examples; others are read as 0.

  Settings:
    steps: updates until lambda is at its peak; 10 epochs of CIFAR at batch 128.
    peak: largest lambda, > 0.
    start: smallest temperature, > 0.
    span: largest temperature less the smallest, > 0.
    instance: one temperature per example, in place of one for all.
    width: of the hidden layer, if `instance`.

  Returns:
    `temperature`, a setting of losses: a scalar, or `[B]`, float32. Its initial
    value is (about) start + span sigmoid(1). No gradient passes through the
    inputs of the network.

  Departures: lambda changes per update, in the public code per epoch. That
  code has the one number only; inputs (probabilities, concatenated) and
  layers of the network for `instance` are ours.

  References: li2023ctkd.
  """

  def __init__(self, student_logits, teacher_logits, *, rngs: nnx.Rngs,
               steps: int = 3910, peak: float = 1.0, start: float = 1.0,
               span: float = 20.0, instance: bool = False, width: int = 64):
    fn = 'CurriculumTemperature'
    core.check_positive(fn, steps=steps, peak=peak, start=start, span=span,
                        width=width)
    shape = tuple(student_logits.shape)
    if len(shape) != 2 or tuple(teacher_logits.shape) != shape:
      raise ValueError(
          f'{fn}: student_logits and teacher_logits must be [B, K] both; got '
          f'{shape} and {tuple(teacher_logits.shape)}.')
    self.steps, self.peak = float(steps), float(peak)
    self.start, self.span = float(start), float(span)
    self.instance = instance
    if instance:
      self.hidden = nnx.Linear(2 * shape[1], width, rngs=rngs)
      self.out = nnx.Linear(width, 1, rngs=rngs,
                            bias_init=nnx.initializers.ones)
    else:
      self.free = nnx.Param(jnp.ones(()))

  def __call__(self, student_logits, teacher_logits, step, where=None
               ) -> dict[str, jax.Array]:
    if self.instance:
      p = jnp.concatenate([jax.nn.softmax(valid(core.to_float(z), where))
                           for z in (student_logits, teacher_logits)], -1)
      u = self.out(nnx.relu(self.hidden(jax.lax.stop_gradient(p))))[:, 0]
      u = valid(u, where)  # or a NaN of the loss there would reach the weights
    else:
      u = self.free[...]
    done = jnp.minimum(jnp.asarray(step, jnp.float32) / self.steps, 1)
    scale = self.peak * 0.5 * (1 - jnp.cos(math.pi * done))
    u = core.reverse_gradient(core.to_float(u), scale)
    return {'temperature': self.start + self.span * jax.nn.sigmoid(u)}
