"""Weights of teacher and label per example, by a small network."""
from collections.abc import Sequence

from flax import nnx
import jax
from jax import numpy as jnp

from kt_jax import core
from kt_jax.modules._pooled import valid


class SampleRatio(nnx.Module):
  r"""A small network on the positions of student, teacher and label.

    alpha = sigmoid(MLP([S, T, G, M, (M-S)^2, (G-S)^2, (T-S)^2, (T-G)^2,
                         (M-G)^2])),

  squares by element, of probabilities: student S, teacher T, label G (one-hot)
  and M, the teacher's mean over the examples of the same class. The MLP has
  9K inputs and LeakyReLU (slope 0.01). Its inputs have no gradient: alpha is a
  constant to student and teacher, and only its own weights are learned, from
  held-out examples (a bilevel problem; on the training loss alpha would select
  the smaller of the two terms).

  Arrays, by name (`where` at the call only):
    student_logits, teacher_logits: `[B, K]`.
    labels: `[B]` class ids, or `[B, K]` probabilities, which then are G; the
      sums of M, and M itself, are weighted by them. An id outside 0..K-1 gives
      NaN.
    where: `[B]` bool, the valid examples. Others do not change the state and
      have no gradient.

  Settings:
    hidden: widths of the hidden layers.
    temperature: > 0, of S and T.

  State: sum of T by class `[K, K]` and count by class `[K]`, float32.

  Returns:
    `teacher_share` `[B]` alpha and `label_share` `[B]` 1 - alpha, float32.

  Departures: M is precomputed in the paper's code, once for the training set.
  Here it is the exact mean over all calls so far, this batch included: without
  a second pass, and over augmented views; early in the first epoch it is noisy.
  The gradient never reaches the released controller, which stays as it was
  initialized; here the caller decides.

  References: hu2024tgeo.
  """

  def __init__(self, student_logits, teacher_logits, labels, *,
               rngs: nnx.Rngs, hidden: Sequence[int] = (32, 16),
               temperature: float = 1.0):
    fn = 'SampleRatio'
    core.check_positive(fn, temperature=temperature)
    if not all(width >= 1 for width in hidden):
      raise core.UserError(f'{fn}: hidden must be widths >= 1, got {hidden}.')
    shape = tuple(student_logits.shape)
    if len(shape) != 2 or tuple(teacher_logits.shape) != shape:
      raise ValueError(
          f'{fn}: student_logits and teacher_logits must be [B, K] both; got '
          f'{shape} and {tuple(teacher_logits.shape)}.')
    if tuple(labels.shape) not in (shape[:1], shape):
      raise ValueError(f'{fn}: labels must be {shape[:1]} or {shape}, as '
                       f'student_logits; got {tuple(labels.shape)}.')
    classes = shape[1]
    sizes = (9 * classes, *hidden, 1)
    self.layers = nnx.List([nnx.Linear(a, b, rngs=rngs)
                            for a, b in zip(sizes, sizes[1:])])
    self.temperature = float(temperature)
    self.total = nnx.BatchStat(jnp.zeros((classes, classes)))
    self.count = nnx.BatchStat(jnp.zeros(classes))

  def __call__(self, student_logits, teacher_logits, labels, where=None
              ) -> dict[str, jax.Array]:
    s, t = (jax.nn.softmax(core.to_float(z) / self.temperature)
            for z in (student_logits, teacher_logits))
    g = core.to_float(labels)
    if g.ndim < s.ndim:
      g = jax.nn.one_hot(labels, s.shape[-1])
      g = jnp.where(jnp.any(g, axis=-1, keepdims=True), g, jnp.nan)
    s, t, g = (valid(jax.lax.stop_gradient(x), where) for x in (s, t, g))

    # A NaN reaches the share of its example, but not the means, which stay.
    finite = jnp.isfinite(t + g).all(axis=-1, keepdims=True)
    weight, p = jnp.where(finite, g, 0), jnp.where(finite, t, 0)
    product = lambda a, b: jnp.matmul(a, b, precision='highest')
    total = self.total[...] + product(weight.T, p)
    count = self.count[...] + weight.sum(axis=0)
    self.total[...], self.count[...] = total, count
    m = product(g, total / jnp.where(count > 0, count, 1)[:, None])

    x = jnp.concatenate([s, t, g, m, (m - s)**2, (g - s)**2, (t - s)**2,
                         (t - g)**2, (m - g)**2], axis=-1)
    for layer in self.layers[:-1]:
      x = nnx.leaky_relu(layer(x))
    alpha = jax.nn.sigmoid(self.layers[-1](x)[:, 0])
    return {'teacher_share': alpha, 'label_share': 1 - alpha}
