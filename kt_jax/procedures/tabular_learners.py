r"""Four students of a teacher over finitely many inputs, in closed form.

The teacher is a table of conditionals pi*(a|s). The data are n pairs (s, a),
s from a distribution rho and a from pi*(.|s), of which only the counts matter.
The students differ in the part of the teacher that they are shown. At an input
without data all of them are uniform. On the host, in float64.

Axes: S inputs, A labels. n_sa counts pairs, n_s their sum over labels.
References: zhao2023limits.
"""
import numpy as np


def sample(teacher, inputs, n: int, rng: np.random.Generator) -> np.ndarray:
  """Counts of n independent pairs.

  Args:
    teacher: `[S, A]`, rows pi*(.|s) that sum to one.
    inputs: `[S]`, rho.
    n: number of pairs.
    rng: random generator.

  Returns:
    `[S, A]` integers n_sa that sum to n.
  """
  teacher, inputs = _table('sample', teacher, inputs=inputs)
  joint = (inputs[:, None] * teacher).ravel()
  return rng.multinomial(n, joint / joint.sum()).reshape(teacher.shape)


def ce_sgl(counts, teacher) -> np.ndarray:
  """Cross entropy with the labels, without the teacher: n_sa / n_s.

  Args:
    counts: `[S, A]`; whole numbers, or an expectation of them.
    teacher: `[S, A]`; only its shape is used.

  Returns:
    `[S, A]`, the student.
  """
  teacher, counts = _table('ce_sgl', teacher, counts=counts)
  return _normalized(counts)


def ce_ptl(counts, teacher) -> np.ndarray:
  """Cross entropy weighted by the teacher's probability of the label.

    pi(a|s) ~ n_sa pi*(a|s), the minimizer of
    -sum_i pi*(a_i|s_i) log pi(a_i|s_i)

  Biased: with growing n it tends to pi*^2, normalized.

  Args:
    counts: `[S, A]`; whole numbers, or an expectation of them.
    teacher: `[S, A]`, used where counts are positive.

  Returns:
    `[S, A]`, the student.
  """
  teacher, counts = _table('ce_ptl', teacher, counts=counts)
  return _normalized(counts * np.where(counts > 0, teacher, 0))


def sel_ptl(counts, teacher) -> np.ndarray:
  """Squared error of logarithms at the label.

    pi(a|s) = pi*(a|s) where n_sa > 0, the minimizer of
    sum_i 1/2 (log pi(a_i|s_i) - log pi*(a_i|s_i))^2

  The rest of a row is shared equally by the labels without counts: other ways
  are minimizers too, this one is the paper's.

  Args:
    counts: `[S, A]`; whole numbers, or an expectation of them.
    teacher: `[S, A]`, used where counts are positive.

  Returns:
    `[S, A]`, the student.
  """
  teacher, counts = _table('sel_ptl', teacher, counts=counts)
  observed = counts > 0
  copied = np.where(observed, teacher, 0)
  left = np.maximum(1 - copied.sum(1, keepdims=True), 0)
  others = np.sum(~observed, axis=1, keepdims=True)
  return copied + np.where(observed, 0, left / np.maximum(others, 1))


def ce_ful(counts, teacher) -> np.ndarray:
  """Cross entropy with the full teacher: its rows at inputs with counts.

  Args:
    counts: `[S, A]`; whole numbers, or an expectation of them.
    teacher: `[S, A]`, used in rows with counts.

  Returns:
    `[S, A]`, the student.
  """
  teacher, counts = _table('ce_ful', teacher, counts=counts)
  observed = counts.sum(1, keepdims=True) > 0
  return np.where(observed, teacher, 1 / teacher.shape[1])


def total_variation_risk(student, teacher, inputs) -> float:
  """sum_s rho(s) 1/2 sum_a |pi(a|s) - pi*(a|s)|, in [0, 1].

  Args:
    student: `[S, A]`.
    teacher: `[S, A]`.
    inputs: `[S]`, rho.
  """
  student = np.asarray(student, np.float64)
  teacher, inputs = _table('total_variation_risk', teacher, inputs=inputs)
  if student.shape != teacher.shape:
    raise ValueError(f'total_variation_risk: student has shape {student.shape},'
                     f' teacher {teacher.shape}.')
  return float(inputs @ np.abs(student - teacher).sum(1)) / 2


def _normalized(weights: np.ndarray) -> np.ndarray:
  """Rows that sum to one; uniform where all weights are zero."""
  total = weights.sum(1, keepdims=True)
  return np.where(total > 0, weights / np.where(total > 0, total, 1),
                  1 / weights.shape[1])


def _table(name: str, teacher, *, inputs=None, counts=None):
  """The teacher and the other array, checked."""
  teacher = np.asarray(teacher, np.float64)
  if teacher.ndim != 2 or not (
      teacher >= 0).all() or not np.allclose(teacher.sum(1), 1):
    raise ValueError(f'{name}: teacher must be [S, A], rows of probabilities, '
                     f'got shape {teacher.shape}.')
  if inputs is not None:
    inputs = np.asarray(inputs, np.float64)
    if inputs.shape != teacher.shape[:1] or not (
        inputs >= 0).all() or not np.isclose(inputs.sum(), 1):
      raise ValueError(f'{name}: inputs must be {len(teacher)} probabilities, '
                       f'got shape {inputs.shape}.')
    return teacher, inputs
  counts = np.asarray(counts, np.float64)
  if counts.shape != teacher.shape or not (counts >= 0).all():
    raise ValueError(f'{name}: counts must be {teacher.shape} numbers >= 0, '
                     f'got shape {counts.shape}.')
  return teacher, counts
