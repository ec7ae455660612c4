"""A setting of a loss on a schedule."""
import math

from flax import nnx
import jax
from jax import numpy as jnp

from kt_jax import core


class Scheduled(nnx.Module):
  """A number that changes from `start` to `end` over `steps` updates.

  Arrays, by name:
    step: at the call, scalar integer, the number of updates so far.

  Settings:
    steps: updates until `end`, > 0, where it stays. The default is 240 epochs
      of CIFAR at batch 128.
    start: value at update 0.
    end: value at update `steps`.
    shape: 'cosine' (slow at both ends) or 'linear'.
    name: of the setting of the loss.

  Returns:
    `{name: value}`, a float32 scalar.

  References: zhang2023trg (a temperature that falls).
  """

  def __init__(self, *, rngs: nnx.Rngs | None = None, steps: int = 93600,
               start: float = 1.0, end: float = 0.1, shape: str = 'cosine',
               name: str = 'temperature'):
    del rngs  # not random
    core.check_positive('Scheduled', steps=steps)
    if shape not in ('cosine', 'linear'):
      raise core.UserError(core.nearest('shape of Scheduled', shape,
                                        ('cosine', 'linear')))
    self.steps, self.start, self.end = float(steps), float(start), float(end)
    self.shape, self.name = shape, name

  def __call__(self, step) -> dict[str, jax.Array]:
    done = jnp.minimum(jnp.asarray(step, jnp.float32) / self.steps, 1)
    if self.shape == 'cosine':
      done = 0.5 * (1 - jnp.cos(math.pi * done))
    return {self.name: (1 - done) * self.start + done * self.end}
