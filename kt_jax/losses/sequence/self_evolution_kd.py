"""Self-evolution knowledge distillation."""
import jax
from jax import numpy as jnp

from kt_jax import core
from kt_jax.losses.response._labels import is_true
from kt_jax.losses.response._mixture import log_mixture
from kt_jax.losses.response.kd import kd
from kt_jax.losses.sequence._interpolate import interpolate
from kt_jax.losses.sequence._tokens import valid_tokens

_FORMS = ('mixture', 'geometric', 'weight')
_CHOICES = ('difficulty', 'random')


def self_evolution_kd(
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    labels: jax.Array,
    where: jax.Array | None = None,
    key: jax.Array | None = None,
    *,
    lam: float = 0.5,
    hard: float = 0.5,
    ratio: float = 0.3,
    form: str = 'mixture',
    choice: str = 'difficulty',
) -> jax.Array:
  r"""Mixes the target into the student on hard tokens.

    KL(p || q'),   g = lam onehot(y) + (1 - lam) p,  q = softmax(z_s),
    mixture:    q' = (1 - r) q + r sg(g),
    geometric:  q' = softmax((1 - r) z_s + r sg(log g)),

  on those whose difficulty KL(g || q) is among the largest; q' = q on others.

  Args:
    student_logits: `[..., V]` raw logits z_s.
    teacher_logits: `[..., V]` raw logits of p; no gradient is stopped here.
    labels: `[...]` integer; one outside 0..V-1 gives NaN.
    where: `[...]` bool, the tokens that count; None: all.
    key: random key, needed if `choice` is 'random'.
    lam: share of the label in g, in [0, 1].
    hard: share of the tokens that are hard, in [0, 1]; rounded to a number of
      them, ties are included. 1 mixes all, 0 is `losses.kd` at temperature 1.
    ratio: r, in [0, 1).
    form: 'mixture', 'geometric', or 'weight': KL(p || q) / (1 - r), which
      weighs hard tokens up, where the other two shrink their gradient: by
      (1 - r) q / q' class by class, and by 1 - r. A control.
    choice: 'difficulty', or 'random': tokens sampled by (key, place) are hard.
      A control.

  Returns:
    `[...]` losses in nats, at least float32; not 0 at equality on hard tokens.
    Difficulty is relative to all tokens in the call: the selection changes with
    micro-batches and a short last batch.

  Departures: the paper leaves open lam, threshold, ratio, form and whether g
  has a gradient in q'; defaults and both forms are ours.

  References: song2024selfevolution.
  """
  fn = 'self_evolution_kd'
  core.check_logits(fn, student_logits=student_logits,
                    teacher_logits=teacher_logits)
  core.check_fraction(fn, lam=lam, hard=hard)
  if not 0 <= ratio < 1:
    raise core.UserError(f'{fn}: ratio must be in [0, 1), got {ratio}.')
  if form not in _FORMS:
    raise core.UserError(core.nearest(f'form of {fn}', form, _FORMS))
  if choice not in _CHOICES:
    raise core.UserError(core.nearest(f'choice of {fn}', choice, _CHOICES))
  valid, z_s, z_t, labels = valid_tokens(fn, student_logits, teacher_logits,
                                         labels, where)
  gold = is_true(fn, z_s, labels)
  log_g = jax.lax.stop_gradient(
      jnp.log(lam * gold + (1 - lam) * jax.nn.softmax(z_t)))
  if choice == 'difficulty':
    difficulty = jax.lax.stop_gradient(kd(z_s, log_g, temperature=1.0))
  elif key is not None:
    difficulty = jax.random.uniform(key, valid.shape)
  else:
    raise ValueError(f"{fn}: a key is needed if choice is 'random', got None.")

  plain = kd(z_s, z_t, temperature=1.0)
  if form == 'mixture':
    mixed = log_mixture(log_g, jax.nn.log_softmax(z_s), ratio)
  else:
    mixed = interpolate(z_s, log_g, ratio)
  evolved = (plain / (1 - ratio) if form == 'weight'
             else kd(mixed, z_t, temperature=1.0))
  loss = jnp.where(_largest(difficulty, valid, hard), evolved, plain)
  return jnp.where(jnp.any(gold, axis=-1), loss, jnp.nan)


def _largest(values, valid, share):
  """Mask of the valid ones that are among their largest `share`."""
  ascending = jnp.sort(jnp.where(valid, values, -jnp.inf), axis=None)
  count = jnp.round(share * jnp.sum(valid)).astype(int)
  size = values.size
  least = ascending[jnp.maximum(size - count, 0) % size]
  return valid & (count > 0) & (values >= least)
