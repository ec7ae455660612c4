"""Task arithmetic: adding and subtracting task vectors."""
import jax

from kt_jax.merge._combine import combine
from kt_jax.merge.contract import declare


def task_arithmetic(
    base: jax.Array,
    models: jax.Array,
    weight: jax.Array,
    *,
    scale: float | jax.Array = 1.0,
    normalize: bool = False,
) -> jax.Array:
  r"""Adds weighted task vectors to the base.

    base + scale sum_t w_t (m_t - base)

  Weight -1 negates a task: the base forgets what the model learned. Weights
  (1, 1, -1) make the analogy "c is to d as a is to b".

  Args:
    base: `[...]` leaf of the base model; also gives the dtype.
    models: `[T, ...]` the same leaf of T models.
    weight: `[T]`, any finite reals, possibly traced.
    scale: lambda of the paper, which searches 0.05 to 1 on held-out data, one
      value for all tasks; 0.3 is common.
    normalize: divides by the sum of the weights, unless that is within 1e-8 of
      0. Equal weights then make a uniform average.

  Returns:
    `[...]` in base's dtype.


  References: ilharco2022task, Sec. 2.
  """
  return combine('task_arithmetic', base, models, weight, scale=scale,
                 normalize=normalize)


declare(task_arithmetic, entrywise=True)
