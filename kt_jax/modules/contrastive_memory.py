"""Memory of embeddings for contrastive distillation."""
from flax import nnx
import jax
from jax import numpy as jnp

from kt_jax import core
from kt_jax.modules.embedding_head import EmbeddingHead


class Memory(nnx.Variable):
  """State from earlier batches; no gradient reaches it."""


class ContrastiveMemory(nnx.Module):
  r"""Embeds the features of both networks, stores them and draws negatives.

    row_i <- (m row_i + (1 - m) e_i) at length 1, for each example i of the
    batch, in the student's and in the teacher's bank, after reading.

  Arrays, by name:
    student_features, teacher_features: `[B, ...]`, at construction and call.
    index: `[B]` int32, at the call, the example's place in the training set.
    key: at the call, of the negatives; an example's depend on it and the index.
    where: `[B]` bool, at the call, the valid examples; others are not stored.

  Settings:
    examples: M, the size of the training set, > 1.
    width: of the embeddings.
    negatives: N, the rows drawn for an example, with replacement and without
      its own. `[B, N, width]` floats are held for each network.
    momentum: m, in [0, 1].
    temperature: > 0, of the loss.
    normalize: whether the first valid batch fixes Z, by direction, to M times
      the mean e^{<anchor, negative> / temperature}; else it is 1, as printed.

  State: two banks `[examples, width]`, initially uniform in +-sqrt(3 / width)
  (about length 1), and the two Z, -1 until fixed.

  Returns:
    `student_features`, `teacher_features` `[B, width]` of length 1,
    `student_negatives`, `teacher_negatives` `[B, N, width]`, and the settings
    of `losses.crd`: `temperature`, `examples`, `student_normalizer`,
    `teacher_normalizer`; at least float32.

  Departures: in the public code an example may be its own negative, and the
  mean of Z includes the positive (a row of the bank there).

  References: tian2020crd, Sec. 3 and its public code.
  """

  def __init__(self, student_features, teacher_features, *, rngs: nnx.Rngs,
               examples: int = 50000, width: int = 128, negatives: int = 16384,
               momentum: float = 0.5, temperature: float = 0.07,
               normalize: bool = True):
    fn = 'ContrastiveMemory'
    core.check_positive(fn, negatives=negatives, temperature=temperature)
    core.check_fraction(fn, momentum=momentum)
    if not examples > 1:
      raise core.UserError(f'{fn}: examples must be > 1, got {examples}.')
    self.embed = EmbeddingHead(student_features, teacher_features, rngs=rngs,
                               width=width)
    self.examples, self.negatives = examples, negatives
    self.momentum, self.temperature = momentum, temperature
    self.normalize = normalize
    bound = (3 / width)**0.5
    bank = lambda: Memory(jax.random.uniform(
        rngs.params(), (examples, width), minval=-bound, maxval=bound))
    self.student_bank, self.teacher_bank = bank(), bank()
    self.student_z, self.teacher_z = (Memory(jnp.full((), -1.0))
                                      for _ in range(2))

  def __call__(self, student_features, teacher_features, index, key, where=None
              ) -> dict[str, jax.Array]:
    valid = jnp.ones(index.shape, bool) if where is None else where.astype(bool)
    out = self.embed(student_features, teacher_features, valid)
    constant = jax.lax.stop_gradient(out)
    # A row out of range is not stored, nor is NaN, which would stay.
    finite = jnp.isfinite(constant['student_features']
                          + constant['teacher_features']).all(axis=-1)
    stored = valid & (index >= 0) & finite
    index = jnp.where(stored, index, self.examples)
    # A batch across the end of an epoch may hold an example twice. Accelerators
    # keep any of several writes to one row: here it is the last.
    again = jnp.triu(index[:, None] == index, 1).any(axis=1)
    place = jnp.where(again, self.examples, index)

    def draw(i):
      n = jax.random.randint(jax.random.fold_in(key, i), (self.negatives,), 0,
                             self.examples - 1)
      return n + (n >= i)
    rows = jax.vmap(draw)(index)  # [B, N]
    for name, anchor, bank, z in (
        ('student', 'teacher', self.student_bank, self.teacher_z),
        ('teacher', 'student', self.teacher_bank, self.student_z)):
      negatives = bank[...][rows]
      out[f'{name}_negatives'] = negatives
      out[f'{anchor}_normalizer'] = self._normalizer(
          z, constant[f'{anchor}_features'], negatives, stored)
      new = (self.momentum * bank[...].at[place].get(mode='clip')
             + (1 - self.momentum) * constant[f'{name}_features'])
      bank[...] = bank[...].at[place].set(core.unit(new), mode='drop')
    return out | {
        'temperature': jnp.asarray(self.temperature, jnp.float32),
        'examples': jnp.asarray(self.examples, jnp.float32)}

  def _normalizer(self, z, anchor, negatives, where):
    """The fixed Z, or that of this batch, which is fixed from then on."""
    if not self.normalize:
      return jnp.ones(())
    score = core.dot(negatives, anchor[:, None])[..., 0] / self.temperature
    mean = core.masked_mean(jnp.exp(score), where[:, None])
    fresh = jnp.where(where.any(), self.examples * mean, -1.0)
    z[...] = jnp.where(z[...] > 0, z[...], fresh)
    return jnp.where(z[...] > 0, z[...], 1.0)
