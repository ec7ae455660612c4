"""The Karcher mean: the mean on the sphere."""
import jax
from jax import numpy as jnp

from kt_jax import core
from kt_jax.merge._check import check_stack
from kt_jax.merge._check import normalized
from kt_jax.merge._gram import check_gram
from kt_jax.merge._gram import cosines
from kt_jax.merge._gram import zero_gram
from kt_jax.merge._span import span
from kt_jax.merge.contract import declare
from kt_jax.merge.contract import Measure


def karcher(
    base: jax.Array,
    models: jax.Array,
    weight: jax.Array,
    gram: jax.Array | None = None,
    *,
    max_iter: int = 10,
    tol: float = 1e-5,
    origin: str = 'zero',
) -> jax.Array:
  r"""The point of the sphere that is closest to the models, at mean length.

    u <- exp_u( sum_t w_t log_u(m_t / |m_t|) ),   result (sum_t w_t |m_t|) u

  minimizes sum_t w_t angle(u, m_t)^2. The steps stay in the span of the models,
  so they are taken in its coordinates, for which `gram` suffices.

  Args:
    base: `[...]` leaf of the base model; gives the dtype, and with origin
      'zero' nothing else.
    models: `[T, ...]`.
    weight: `[T]`, divided by their sum. One alone is that model bit for bit.
    gram: `[T, T]`, see `delta_gram`; None takes it from the leaf.
    max_iter: largest number of steps.
    tol: leaves no longer than this have no direction; a step no longer than
      this is the last; where the mean of the directions is no longer than this,
      the search begins at the first model.
    origin: 'zero', or 'base' for the mean of the task vectors.

  Returns:
    `[...]` in base's dtype; a leaf that is not floating is the base's.

  Raises:
    UserError: an unknown origin, max_iter < 1, tol <= 0, weights that sum to 0.

  Departures: mergekit gives all its models, the base among them, one weight.
  It skips models at an angle below tol from u, which is not needed here; models
  opposite to u have no direction from it and are skipped here, while there
  rounding picks one.
  """
  weight = jnp.asarray(weight)
  check_stack('karcher', base, models, weight)
  core.check_positive('karcher', max_iter=max_iter, tol=tol)
  weight = normalized('karcher', weight)
  if not jnp.issubdtype(base.dtype, jnp.floating):
    return base
  if len(models) == 1:
    return span(base, models, jnp.ones(1))
  if gram is None:
    gram = zero_gram(base, models, origin=origin)
  check_gram('karcher', gram, len(models))
  norm, cosine = cosines(gram, tol)
  directed = (norm > 0) & (weight != 0)
  # The weights of models that have a direction sum to one again.
  part = jnp.where(directed, weight, 0)
  total = jnp.sum(part)
  part = part / jnp.where(total == 0, 1, total)

  def length(x):
    return core.root(jnp.maximum(jnp.sum(x[:, None] * cosine * x), 0))

  def unit(x):
    size = length(x)
    return x / jnp.where(size > tol, size, 1), size

  at, size = unit(part)
  first = jax.nn.one_hot(jnp.argmax(directed), len(models), dtype=part.dtype)
  at = jnp.where(size > tol, at, first)

  def step(carry, _):
    at, done = carry
    dots = jnp.clip(jnp.sum(cosine * at, 1), -1, 1)
    pull = part * _angle_over_sine(dots, tol)
    tangent = pull - jnp.sum(pull * dots) * at
    size = length(tangent)
    done |= size < tol
    ratio = jnp.sin(size) / jnp.where(size < tol, 1, size)
    new, _ = unit(jnp.cos(size) * at + ratio * tangent)
    return (jnp.where(done, at, new), done), None

  (at, _), _ = jax.lax.scan(step, (at, jnp.asarray(False)), None, max_iter)
  factors = jnp.sum(weight * norm) * at / jnp.where(norm == 0, 1, norm)
  return span(base, models, jnp.where(norm == 0, 0, factors), origin)


declare(karcher, entrywise=True, measures={'gram': Measure(zero_gram)})


def _angle_over_sine(cosine, tol):
  """`a / sin(a)` of an angle, 0 within `tol` of half a turn."""
  near, far = cosine > 1 - 1e-4, cosine < -1 + tol**2 / 2 + 1e-6
  angle = jnp.arccos(jnp.where(near | far, 0, cosine))
  ratio = angle / jnp.sin(angle)
  # The first terms at 0: 1 + a^2 / 6, with a^2 = 2 (1 - cos a).
  return jnp.where(far, 0, jnp.where(near, 1 + (1 - cosine) / 3, ratio))
