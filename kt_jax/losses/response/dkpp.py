"""Dark knowledge with permuted predictions."""
import math

import jax
from jax import numpy as jnp

from kt_jax import core
from kt_jax.losses.response.kd import kd


def dkpp(
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    key: jax.Array,
    index: jax.Array | None = None,
) -> jax.Array:
  r"""Distillation of the top class, the other probabilities permuted.

    KL(p' || q),   p' = p with all but its largest entry permuted at random.

  A control: distillation without the teacher's information on which of the
  other classes are probable.

  Args:
    student_logits: `[..., K]` raw logits of q.
    teacher_logits: `[..., K]` raw logits of p; no gradient is stopped here.
    key: random key of the permutations.
    index: `[...]` integer, places of the examples in the training set. With it
      an example's permutation depends on (key, index) only; None: on key and
      its place in the batch.

  Returns:
    `[...]` losses in nats at temperature 1, at least float32; not 0 at equality
    of the logits, as the target is permuted.

  Departures: the paper writes a cross entropy, which differs from this by the
  teacher's entropy: the same gradient.

  References: furlanello2018born, Sec. 3 (DKPP).
  """
  core.check_logits('dkpp', student_logits=student_logits,
                    teacher_logits=teacher_logits)
  lead, classes = student_logits.shape[:-1], student_logits.shape[-1]
  if index is None:
    index = jnp.arange(math.prod(lead)).reshape(lead)
  if index.shape != lead:
    raise ValueError(f'dkpp: index has shape {index.shape}; it must be {lead}, '
                     'one entry per example.')

  def permuted(z, index):
    noise = jax.random.uniform(jax.random.fold_in(key, index), (classes,))
    top = jnp.arange(classes) == jnp.argmax(z)
    # Both orders begin with the top class, so that it keeps its place.
    source = jnp.argsort(jnp.where(top, -1, noise))
    target = jnp.argsort(jnp.where(top, -1, jnp.arange(classes)))
    return z[source][jnp.argsort(target)]

  # An axis at a time: flattened, axes that are sharded would be gathered.
  for _ in lead:
    permuted = jax.vmap(permuted)
  return kd(student_logits, permuted(teacher_logits, index), temperature=1.0)
