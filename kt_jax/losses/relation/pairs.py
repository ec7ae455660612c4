"""What losses on pairs share: inputs at the door, rows without padding."""
import jax
from jax import numpy as jnp

from kt_jax import core
from kt_jax.losses.feature.layers import as_list


def valid_rows(fn: str, x: jax.Array, where: jax.Array | None) -> jax.Array:
  """`[B]` which examples of `x` count."""
  if where is None:
    return jnp.ones(x.shape[:1], bool)
  if where.shape != x.shape[:1]:
    raise ValueError(f'{fn}: where has shape {where.shape}; it must be '
                     f'{x.shape[:1]}, one entry an example.')
  return where.astype(bool)


def blank(x: jax.Array, valid: jax.Array) -> jax.Array:
  """`x` in float, 0 in rows that do not count, whatever stood there."""
  shape = valid.shape + (1,) * (x.ndim - valid.ndim)
  return jnp.where(valid.reshape(shape), core.to_float(x), 0)


def single(fn: str, features) -> jax.Array:
  """One layer's array; a list of one is that one."""
  if not isinstance(features, (list, tuple)):
    return features
  if len(features) != 1:
    raise ValueError(f'{fn}: compares one layer, got {len(features)}.')
  return features[0]


def embeddings(fn: str, student: jax.Array, teacher: jax.Array,
               where: jax.Array | None = None, same_width: bool = False):
  """Both nets' examples as vectors.

  Args:
    fn: name of the caller, for messages.
    student: `[B, ...]`.
    teacher: `[B, ...]` of the same B.
    where: `[B]` or None: all.
    same_width: whether what follows B must agree too.

  Returns:
    `[B, D]` and `[B, E]` floats without padding, `[B]` which rows count, and
    the (float) number of those, at least 1.
  """
  student, teacher = single(fn, student), single(fn, teacher)
  agree = student.shape == teacher.shape if same_width else (
      student.shape[:1] == teacher.shape[:1])
  if min(student.ndim, teacher.ndim) < 2 or not agree:
    raise ValueError(
        f'{fn}: student_features has shape {student.shape}, teacher_features '
        f'{teacher.shape}; they must be [B, ...] and '
        + ('agree.' if same_width else 'agree in B.'))
  valid = valid_rows(fn, student, where)
  flat = lambda x: blank(x, valid).reshape(len(x), -1)
  return flat(student), flat(teacher), valid, count(valid)


def count(valid: jax.Array) -> jax.Array:
  """How many rows count, at least 1."""
  return jnp.maximum(jnp.sum(valid, dtype=jnp.float32), 1)


def both(valid: jax.Array) -> jax.Array:
  """`[B, B]` pairs of rows that count."""
  return valid[:, None] & valid


def layers(fn: str, student, teacher) -> list[tuple[jax.Array, jax.Array]]:
  """Pairs of layers from two arrays or two lists of them, equally long."""
  student, teacher = as_list(student), as_list(teacher)
  if not student or len(student) != len(teacher):
    raise ValueError(f'{fn}: {len(student)} student_features and '
                     f'{len(teacher)} teacher_features; they are compared in '
                     'pairs, at least one.')
  return list(zip(student, teacher))


def huber(x: jax.Array) -> jax.Array:
  """Half the square up to 1, linear beyond."""
  size = jnp.abs(x)
  return jnp.where(size <= 1, 0.5 * jnp.square(x), size - 0.5)


def nll(score: jax.Array, column: jax.Array) -> jax.Array:
  """`[B]` minus the log-softmax of `score` `[B, B]` at the diagonal.

  Args:
    score: `[B, B]`.
    column: `[B, B]` bool, the entries of each row that compete; the diagonal
      is among them.
  """
  score = jnp.where(column, score, -jnp.inf)
  return jax.nn.logsumexp(score, axis=-1) - jnp.diagonal(score)
