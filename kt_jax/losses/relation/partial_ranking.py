"""Contrastive partial ranking distillation."""
import jax
from jax import numpy as jnp

from kt_jax import core


def partial_ranking(
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    *,
    candidates: int = 16,
    ranked: int = 8,
    threshold: float | None = None,
    temperature: float | jax.Array = 0.07,
) -> jax.Array:
  r"""Ranking of a query's hardest negatives in the order of the teacher.

    1/m sum_{r <= m} - log e^{s_r / tau} / sum_{k >= r} e^{s_k / tau},

  s_1, s_2, ... the student's scores of its `candidates` highest-scored
  negatives in the order of the teacher's, highest first; the m that the teacher
  scores above `threshold`, `ranked` at most, must each win against all below.

  Args:
    student_logits: `[..., C]` similarities of a query to C negatives.
    teacher_logits: `[..., C]` the teacher's scores of the same; an order has
      no gradient. A score of -inf (in either) excludes an entry: the positive,
      its duplicates, padding.
    candidates: how many negatives are mined, >= 1; all if C is smaller.
    ranked: how many of them are ranked, >= 1.
    threshold: the teacher's score above which a candidate is ranked; None: any.
    temperature: tau > 0, that of the student's own contrastive loss.

  Returns:
    `[...]` losses in nats, at least float32; 0 for a query without ranked
    candidates. Candidates of equal score are in the order of their index.

  Departures: candidates not ranked stay in the sums, as easier than those
  ranked. The paper's text was not accessible to us: this follows its abstract,
  and `candidates`, `ranked` are ours.

  References: chen2024cprd.
  """
  fn = 'partial_ranking'
  core.check_logits(fn, student_logits=student_logits,
                    teacher_logits=teacher_logits)
  core.check_positive(fn, temperature=temperature)
  for name, value in (('candidates', candidates), ('ranked', ranked)):
    if not isinstance(value, int) or value < 1:
      raise core.UserError(
          f'{fn}: {name} must be an integer >= 1, got {value}.')
  s, t = core.to_float(student_logits), core.to_float(teacher_logits)
  out = jnp.isneginf(s) | jnp.isneginf(t)
  s, t = jnp.where(out, -jnp.inf, s), jnp.where(out, -jnp.inf, t)
  # A NaN cannot be ordered, and must not get lost in the sort.
  invalid = jnp.any(jnp.isnan(s) | jnp.isnan(t), axis=-1)

  # A sort, unlike top_k, stays on the device of its query.
  _, s, t = jax.lax.sort((-s, s, t), num_keys=1)
  s, t = s[..., :candidates], t[..., :candidates]
  _, s, t = jax.lax.sort((-t, s, t), num_keys=1)
  present = ~jnp.isneginf(t)
  wins = present & (jnp.arange(s.shape[-1]) < ranked)
  if threshold is not None:
    wins &= t > threshold
  # Excluded ones are last. Finite, so that no inf - inf is differentiated.
  s = jnp.where(present, s / temperature, jnp.finfo(s.dtype).min)
  below = jax.lax.cumlogsumexp(s, axis=s.ndim - 1, reverse=True)
  loss = jnp.sum(jnp.where(wins, below - s, 0), axis=-1)
  loss /= jnp.maximum(jnp.sum(wins, axis=-1), 1)
  return jnp.where(invalid, jnp.nan, loss)
