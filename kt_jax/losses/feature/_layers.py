"""Layers of two networks in pairs, with argument validation."""
from collections.abc import Iterable
import functools

import jax

from kt_jax import core
from kt_jax.losses.feature._resize import common_grid


def as_list(features) -> list[jax.Array]:
  """List of layers; one array is a list of one."""
  return list(features) if isinstance(features, (list, tuple)) else [features]


def zip_layers(fn: str, student_features, teacher_features
               ) -> list[tuple[jax.Array, jax.Array]]:
  """`(student, teacher)` of every layer.

  Args:
    fn: name of the loss, for the message.
    student_features: array, or a list of them.
    teacher_features: array, or a list as long.

  Raises:
    ValueError: no layer, or not as many in both.
  """
  student, teacher = as_list(student_features), as_list(teacher_features)
  if len(student) != len(teacher) or not student:
    raise ValueError(
        f'{fn}: student_features has {len(student)} layers, teacher_features '
        f'{len(teacher)}; both must have the same number, at least 1.')
  return list(zip(student, teacher))


def add_layers(costs: Iterable[jax.Array],
               decay: float | jax.Array = 1.0) -> jax.Array:
  """Sum over layers, each weighted by `decay` times the weight of the next."""
  return functools.reduce(lambda total, cost: decay * total + cost, costs)


def matched_layers(
    fn: str,
    student_features,
    teacher_features,
    *,
    least: int = 2,
    grid: bool = True,
    channels: bool = True,
) -> list[tuple[jax.Array, jax.Array]]:
  """`(student, teacher)` of every layer, comparable and in at least float32.

  Args:
    fn: name of the loss, for the message.
    student_features: array `[B, ..., C]`, or a list of them.
    teacher_features: the same of the teacher.
    least: axes that an array must have.
    grid: maps `[B, H, W, C]` that differ in H or W come back pooled to the
      least of each, other inner axes must agree; False compares neither.
    channels: whether C must agree.

  Raises:
    ValueError: names the shapes that cannot be compared.
  """
  out = []
  layers = zip_layers(fn, student_features, teacher_features)
  for i, (s, t) in enumerate(layers):
    bad = (min(s.ndim, t.ndim) < least or s.ndim != t.ndim
           or s.shape[0] != t.shape[0]
           or channels and s.shape[-1] != t.shape[-1]
           or grid and s.ndim != 4 and s.shape[1:-1] != t.shape[1:-1])
    if bad:
      free = 'H and W of maps [B, H, W, C]' + ', and C,' * (not channels)
      raise ValueError(
          f'{fn}: layer {i} has student_features of shape {s.shape} and '
          f'teacher_features of shape {t.shape}; only {free} may differ, and '
          f'at least {least} axes are needed.')
    s, t = core.to_float(s), core.to_float(t)
    if grid and s.ndim == 4:
      s, t = common_grid(s, t)
    out.append((s, t))
  return out
