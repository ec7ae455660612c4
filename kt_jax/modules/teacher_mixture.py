"""A mixture of several teachers."""
from collections.abc import Sequence

from flax import nnx
import jax
from jax import numpy as jnp

from kt_jax import core
from kt_jax.losses.response._labels import expected
from kt_jax.modules._pooled import valid

HOW = ('fixed', 'learned', 'confidence', 'best')


class TeacherMixture(nnx.Module):
  r"""The weighted mean of the teachers' probabilities, as logits.

    z = tau log sum_t w_t softmax(z_t / tau),

  so that softmax(z / tau) is the mean. The weights w by `how`:
    fixed: `weights`, divided by their sum; equal if there are none.
    learned: the softmax of a parameter `[T]`, which starts at 0.
    confidence: w_t = (1 - exp(c_t) / sum_u exp(c_u)) / (T - 1), c_t being the
      cross entropy of teacher t with the label; 1 if there is one teacher.
    best: 1 for the teacher with the largest probability of the label; ties
      (float32 probabilities that round to 1) go to the earlier one.
  The last two differ by example, need the labels and have no gradient.

  Arrays, by name, at construction and call (`where` at the call only):
    teachers_logits: `[T, B, K]` raw logits z_t. -inf masks a class: z is -inf
      where all teachers mask it, else the others' share.
    labels: `[B]` class ids, or `[B, K]` probabilities (default None).
    where: `[B]` bool, the valid examples; others are read as 0.

  Settings:
    weights: one number >= 0 per teacher, for 'fixed'.
    how: 'fixed', 'learned', 'confidence' or 'best'.
    temperature: tau, that of the loss.

  Returns:
    `teacher_logits` `[B, K]` z and `teacher_weights` `[T, B]`, which sum to 1
    over the teachers; at least float32.

  Departures: for 'confidence' the paper weights the teachers' divergences. With
  the loss at the same tau, `kd` to the mean differs from that by a term without
  the student: the gradient is the same. The authors' code also divides by T;
  here the weights sum to 1, as in the equation. They are at temperature 1, as
  there. The paper's term on intermediate layers is left out.

  References: zhang2022camkd, for 'confidence'; roth2024fantastic, the parallel
  transfer, for 'best' (without the student among the models).
  """

  def __init__(self, teachers_logits, labels=None, *, rngs: nnx.Rngs,
               weights: Sequence[float] = (), how: str = 'fixed',
               temperature: float = 1.0):
    del rngs
    fn = 'TeacherMixture'
    shape = tuple(teachers_logits.shape)
    if how not in HOW:
      raise core.UserError(core.nearest(f'how of {fn}', how, HOW))
    core.check_positive(fn, temperature=temperature)
    if len(shape) != 3 or not shape[0]:
      raise ValueError(
          f'{fn}: teachers_logits must be [T, B, K], T >= 1, got {shape}.')
    if how in ('confidence', 'best') and labels is None:
      raise ValueError(f'{fn}: labels are needed if how={how!r}, got None.')
    if labels is not None and tuple(labels.shape) not in (
        shape[1:2], shape[1:]):
      raise ValueError(f'{fn}: labels must be {shape[1:2]} or {shape[1:]} for '
                       f'teachers_logits {shape}; got {tuple(labels.shape)}.')
    weights = tuple(float(w) for w in weights)
    if weights and how != 'fixed':
      raise core.UserError(
          f"{fn}: weights are for how='fixed', got {weights} and how={how!r}.")
    if weights and (len(weights) != shape[0] or not min(weights) >= 0
                    or not 0 < sum(weights) < float('inf')):
      raise core.UserError(f'{fn}: weights must be {shape[0]} numbers >= 0, '
                           f'not all 0, one per teacher; got {weights}.')
    weights = weights or (1.0,) * shape[0]
    self.weights = tuple(w / sum(weights) for w in weights)
    self.how, self.temperature = how, float(temperature)
    if how == 'learned':
      self.scores = nnx.Param(jnp.zeros(shape[0]))

  def __call__(self, teachers_logits, labels=None, where=None
              ) -> dict[str, jax.Array]:
    z = jax.vmap(lambda z: valid(core.to_float(z), where))(teachers_logits)
    if self.how == 'learned':
      log_w = jax.nn.log_softmax(core.to_float(self.scores[...]))[:, None]
      w = jnp.exp(log_w)
    else:
      if self.how == 'fixed':
        w = jnp.asarray(self.weights, z.dtype)[:, None]
      elif labels is None:
        raise ValueError('TeacherMixture: labels are needed if '
                         f'how={self.how!r}, got None.')
      else:
        w = jax.lax.stop_gradient(_by_label(
            self.how, z, valid(labels, where)))
      log_w = jnp.log(w)  # without a gradient, so that -inf is safe
    x = log_w[..., None] + jax.nn.log_softmax(z / self.temperature)
    # The gradient of log(0) would be NaN.
    masked = jnp.max(x, axis=0) == -jnp.inf
    log_p = jnp.where(masked, -jnp.inf, jax.nn.logsumexp(
        jnp.where(masked, 0, x), axis=0))
    return {'teacher_logits': self.temperature * log_p,
            'teacher_weights': jnp.broadcast_to(w, z.shape[:2])}


def _by_label(how: str, z: jax.Array, labels: jax.Array) -> jax.Array:
  """Weights `[T, B]` by each teacher's probability of the label."""
  of_label = jax.vmap(lambda v: expected('TeacherMixture', v, labels))
  if how == 'confidence':
    if len(z) == 1:
      return 1 + 0 * of_label(jax.nn.softmax(z))  # NaN stays NaN
    # A teacher may mask the label, at an infinite cost; two of them tie.
    cost = jnp.minimum(-of_label(jax.nn.log_softmax(z)), 1e9)
    return (1 - jax.nn.softmax(cost, axis=0)) / (len(z) - 1)
  p = of_label(jax.nn.softmax(z))
  best = jnp.arange(len(z))[:, None] == jnp.argmax(p, axis=0)
  return jnp.where(jnp.isnan(p).any(axis=0), jnp.nan, best.astype(z.dtype))
