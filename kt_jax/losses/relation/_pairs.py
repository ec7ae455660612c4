"""Embeddings of a batch, and reductions over pairs of its examples."""
import jax
from jax import numpy as jnp

from kt_jax.losses import _rows


def single(fn: str, features) -> jax.Array:
  """The array of one layer, given as it is or as a list of one."""
  if not isinstance(features, (list, tuple)):
    return features
  if len(features) != 1:
    raise ValueError(f'{fn}: compares one layer, got {len(features)}.')
  return features[0]


def embeddings(
    fn: str,
    student_features: jax.Array,
    teacher_features: jax.Array,
    where: jax.Array | None = None,
    *,
    same_width: bool = False,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
  """The examples of both networks as vectors.

  Args:
    fn: name of the caller, for messages.
    student_features: `[B, ...]`.
    teacher_features: `[B, ...]` of the same B.
    where: `[B]` or None: all.
    same_width: whether what follows B must agree too.

  Returns:
    `[B, D]` and `[B, E]` floats with 0 in rows that do not count, `[B]` bool
    which rows count, and the (float) number of those, at least 1.
  """
  student = single(fn, student_features)
  teacher = single(fn, teacher_features)
  agree = student.shape == teacher.shape if same_width else (
      student.shape[:1] == teacher.shape[:1])
  if min(student.ndim, teacher.ndim) < 2 or not agree:
    raise ValueError(
        f'{fn}: student_features has shape {student.shape}, teacher_features '
        f'{teacher.shape}; they must be [B, ...] and '
        + ('agree.' if same_width else 'agree in B.'))
  valid = _rows.valid_rows(fn, student, where)
  flat = lambda x: _rows.blank(x, valid).reshape(len(x), -1)
  return flat(student), flat(teacher), valid, _rows.count(valid)


def both(valid: jax.Array) -> jax.Array:
  """`[B, B]` bool, the pairs of rows that count."""
  return valid[:, None] & valid


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
