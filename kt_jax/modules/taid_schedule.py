"""The schedule of TAID's target between student and teacher."""
from flax import nnx
import jax
from jax import numpy as jnp

from kt_jax import core

_TINY = 1e-15


class TaidSchedule(nnx.Module):
  r"""A share t that rises with training, faster while the loss falls.

  After an update with loss J, from the second on, with n updates before it:

    r = (J' - J) / (J' + 1e-15),   m <- beta m + (1 - beta) r,
    t <- min(end, max(start + (end - start) n / steps,
                      t + alpha sigmoid(m) (1 - t))),

  where J' is the last finite loss before J. Without one, and where J is not
  finite or J' is 0, m stays and t rises to the linear schedule at most, which
  is its lower bound.

  Settings:
    steps: updates until the lower bound is `end`, > 0.
    start: initial t, in [0, 1]; while t is 0 the loss has no gradient.
    end: final t, from `start` to 1.
    alpha: largest step, >= 0. It exceeds the lower bound only while
      alpha / 2 (1 - t) > (end - start) / steps: runs below about 4000 updates
      are linear at the paper's value; 8 / steps scales it.
    beta: momentum, in [0, 1).
    adaptive: False: the lower bound itself; with start = end t is fixed.

  State: `share` t, `momentum` m, `previous` J', `updates` n; `update` changes
  it, a call does not.

  Returns:
    `share`, a setting of `losses.taid`: a float32 scalar.

  Departures: the public code changes t per micro-batch; here `update` is
  called once per update with the mean of the term. Its J is a cross entropy;
  `losses.taid` is that less the target's entropy, so that r is larger.

  References: shing2025taid, Sec. 3.3, Alg. 1.
  """

  def __init__(self, *, rngs: nnx.Rngs | None = None, steps: int = 10000,
               start: float = 0.4, end: float = 1.0, alpha: float = 5e-4,
               beta: float = 0.99, adaptive: bool = True):
    del rngs  # not random
    fn = 'TaidSchedule'
    core.check_positive(fn, steps=steps)
    core.check_fraction(fn, start=start, end=end)
    if end < start:
      raise core.UserError(
          f'{fn}: end must be from start, {start}, to 1, got {end}.')
    if alpha < 0 or not 0 <= beta < 1:
      raise core.UserError(f'{fn}: alpha must be >= 0 and beta in [0, 1); got '
                           f'{alpha} and {beta}.')
    self.steps, self.start, self.end = float(steps), float(start), float(end)
    self.alpha, self.beta = float(alpha), float(beta)
    self.adaptive = adaptive
    self.share = nnx.BatchStat(jnp.asarray(start, jnp.float32))
    self.momentum = nnx.BatchStat(jnp.zeros(()))
    self.previous = nnx.BatchStat(jnp.zeros(()))
    self.updates = nnx.BatchStat(jnp.zeros((), jnp.int32))

  def __call__(self) -> dict[str, jax.Array]:
    return {'share': self.share[...]}

  def update(self, loss) -> None:
    """Changes t by the mean J of one update; of NaN by the lower bound only."""
    loss = jax.lax.stop_gradient(jnp.asarray(loss, jnp.float32))
    t, m, last = self.share[...], self.momentum[...], self.previous[...]
    n, finite = self.updates[...], jnp.isfinite(loss)
    usable = finite & (last != 0)  # 0 also before the first finite loss
    m = jnp.where(usable, self.beta * m + (1 - self.beta) * (last - loss)
                  / (last + _TINY), m)
    floor = self.start + (self.end - self.start) * n / self.steps
    adapted = t + self.alpha * jax.nn.sigmoid(m) * (1 - t) if (
        self.adaptive) else t
    t = jnp.minimum(self.end, jnp.maximum(
        floor, jnp.where(usable, adapted, t)))
    self.share[...], self.momentum[...] = t, m
    self.previous[...] = jnp.where(finite, loss, last)
    self.updates[...] = n + 1
