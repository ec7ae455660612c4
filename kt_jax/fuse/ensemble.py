"""Ensembles of distributions."""
import jax
from jax import numpy as jnp
import numpy as np

from kt_jax import core

_SPACES = ('probability', 'logit')


def ensemble(
    logits: jax.Array,
    weight: jax.Array | None = None,
    *,
    space: str = 'probability',
) -> jax.Array:
  r"""Mean of several models' distributions.

    probability: p = sum_t w_t p_t,        high where some model is high;
    logit:       p = prod_t p_t^w_t / Z,   high where all models are high.

  Args:
    logits: `[T, ..., V]` raw logits of T models.
    weight: `[T]` or `[T, ...]`, >= 0 and not all 0 over the models; divided by
      their sum. None: the same for each.
    space: 'probability', the arithmetic mean, or 'logit', the normalized
      geometric mean (the mean of logits).

  Returns:
    `[..., V]` log-probabilities, at least float32. A word that all models mask
    (a logit of -inf) is masked; one that some mask has the others' share in
    the mean of probabilities and is masked in the mean of logits, unless only
    models of weight 0 mask it. Among all m, the first minimizes
    sum_t w_t KL(p_t || m), the second sum_t w_t KL(m || p_t).

  Raises:
    UserError: a weight or a `space` that is not allowed.

  """
  fn = 'ensemble'
  if space not in _SPACES:
    raise core.UserError(core.nearest(f'space of {fn}', space, _SPACES))
  if logits.ndim < 2 or not len(logits):
    raise core.UserError(
        f'{fn}: logits must be [T, ..., V], T >= 1, got {logits.shape}.')
  log_p = jax.nn.log_softmax(core.to_float(logits))
  w = jnp.ones(log_p.shape[:1]) if weight is None else weight
  _check(fn, w, log_p.shape[:-1])
  w = jnp.asarray(w, log_p.dtype)
  w = w.reshape(w.shape + (1,) * (log_p.ndim - w.ndim))
  w = w / jnp.sum(w, axis=0)
  if space == 'logit':
    masked = jnp.isneginf(log_p)
    mean = jnp.sum(w * jnp.where(masked, 0, log_p), axis=0)
    return jax.nn.log_softmax(
        jnp.where(jnp.any(masked & (w > 0), axis=0), -jnp.inf, mean))
  x = jnp.log(w) + log_p
  # The gradient of log(0) would be NaN.
  none = jnp.all(jnp.isneginf(x), axis=0)
  return jnp.where(none, -jnp.inf, jax.nn.logsumexp(
      jnp.where(none, 0, x), axis=0))


def _check(fn: str, weight, lead: tuple[int, ...]) -> None:
  """Refuses weights of another shape and, unless traced, without a mean."""
  if jnp.shape(weight) not in (lead[:1], lead):
    raise core.UserError(
        f'{fn}: weight has shape {jnp.shape(weight)}; allowed are {lead[:1]}, '
        f'one per model, and {lead}, one for each distribution of logits.')
  if not isinstance(weight, jax.core.Tracer):
    w = np.asarray(weight)
    if not (np.all(w >= 0) and np.all(np.isfinite(w.sum(0)))
            and np.all(w.sum(0) > 0)):
      raise core.UserError(
          f'{fn}: weight must be >= 0, with a sum over the models that is '
          f'finite and not 0, got {w.tolist()}.')
