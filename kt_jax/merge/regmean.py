"""RegMean: merges linear layers so that their outputs change least."""
import contextlib
import functools

import jax
from jax import numpy as jnp

from kt_jax import core
from kt_jax.merge._check import check_stack
from kt_jax.merge._check import normalized
from kt_jax.merge._layout import replicate
from kt_jax.merge._layout import shard_like
from kt_jax.merge._span import span
from kt_jax.merge.svd_factors import as_matrix
from kt_jax.merge.svd_factors import matmul


def regmean(
    base: jax.Array,
    models: jax.Array,
    weight: jax.Array,
    grams: jax.Array | None = None,
    *,
    alpha: float = 0.9,
    ridge: float = 1e-6,
    double: bool = True,
) -> jax.Array:
  r"""The kernel whose outputs are nearest to every model's on its own inputs.

    V = (sum_t w_t G_t)^-1 sum_t w_t G_t V_t,   G_t = X_t^T X_t
    G_t <- alpha G_t + (1 - alpha) diag(G_t) first

  At alpha 1 it minimizes sum_t w_t |X_t (V - V_t)|^2: no kernel, the mean
  included, has a smaller sum.

  Args:
    base: `[..., d_out]` kernel; gives the dtype and nothing else.
    models: `[T, ..., d_out]`.
    weight: `[T]`, at least 0; only ratios matter. One alone is that model bit
      for bit.
    grams: `[T, d_in, d_in]` inner products of the layer's inputs, d_in the
      product of all axes but the last: convolutions take flattened patches in
      the order of the kernel. With means over tokens each model counts once,
      with sums each token. None, for leaves without, is the weighted mean.
    alpha: factor of the off-diagonals.
    ridge: pull towards the weighted mean, as a share of the mean of the
      diagonal, above 0. Inputs that are never active get the mean. The theorem
      above holds for the sum with this term, so the sum of errors is still at
      most that of the mean.
    double: solve in float64, whatever jax_enable_x64 is; else in float32 with a
      ridge of at least 1e-4, for devices without float64.

  Returns:
    `[..., d_out]` in base's dtype; a leaf that is not floating is the base's.
    With grams it has gradients in reverse mode only.

  Raises:
    UserError: grams of another shape, alpha outside [0, 1], ridge <= 0, a
      negative weight, weights that sum to 0.

  Departures: the authors invert without a ridge, which fails with units that
  are never active. Their configurations have alpha 0.1 or 1 besides 0.9.

  References: jin2022regmean, Eq. 2 and Sec. 3.2 (off-diagonals).
  """
  weight = jnp.asarray(weight)
  check_stack('regmean', base, models, weight)
  core.check_fraction('regmean', alpha=alpha)
  core.check_positive('regmean', ridge=ridge)
  weight = normalized('regmean', weight, 0)
  if not jnp.issubdtype(base.dtype, jnp.floating):
    return base
  if grams is None:
    return span(base, models, weight)
  size = as_matrix(base).shape[0] if base.ndim > 1 else -1
  if grams.shape != (len(models), size, size):
    raise core.UserError(
        f'regmean: grams has shape {grams.shape}; models of shape '
        f'{models.shape} ask for (T, d_in, d_in), d_in all axes but the last.')

  mean = span(core.to_float(base), models, weight)
  apart = as_matrix(replicate(core.to_float(models) - mean), 1)
  least = 0 if double else 1e-4
  change = _solve(double, core.to_float(replicate(grams)), apart, weight,
                  jnp.float32(alpha), jnp.float32(jnp.maximum(ridge, least)))
  change = shard_like(change.reshape(1, *base.shape), base)[0]
  # Where nothing changes, the mean bit for bit.
  return jnp.where(change == 0, mean, mean + change).astype(base.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _solve(double, *arrays):
  """`(sum w G)^-1 sum w G (V - mean)`, in float64 if `double`."""
  dtype = arrays[1].dtype
  with _width(double):
    return _cast(_formula(*_widen(double, arrays)), dtype)


def _forward(double, *arrays):
  return _solve(double, *arrays), arrays


def _backward(double, arrays, grad):
  # A function in float64 must be differentiated in float64 too.
  with _width(double):
    _, pull = jax.vjp(_formula, *_widen(double, arrays))
    grads = pull(*_widen(double, [grad]))
    return tuple(_cast(g, x.dtype) for g, x in zip(grads, arrays))


_solve.defvjp(_forward, _backward)


def _formula(grams, apart, weight, alpha, ridge):
  diagonal = jnp.eye(grams.shape[-1], dtype=bool)
  grams = jnp.where(diagonal, grams, alpha * grams) * weight[:, None, None]
  total = jnp.sum(grams, 0)
  mean = jnp.sum(jnp.where(diagonal, total, 0)) / len(total)
  mean = jnp.where(mean > 0, mean, 1)
  factor = jax.scipy.linalg.cho_factor(total + ridge * mean * diagonal)
  return jax.scipy.linalg.cho_solve(
      factor, jnp.sum(matmul(grams, apart), 0))


def _width(double):
  return jax.enable_x64(True) if double else contextlib.nullcontext()


def _widen(double, arrays):
  return [_cast(x, jnp.dtype('float64') if double else x.dtype)
          for x in arrays]


def _cast(x, dtype):
  return jax.lax.convert_element_type(x, dtype)
