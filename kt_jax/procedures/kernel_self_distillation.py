r"""Self-distillation of kernel ridge regression, in closed form.

Step t fits the labels with a share a (`label_weight`) and the model of the step
before with the rest:

  f_t = argmin_f a/2 sum_i (f(x_i) - y_i)^2
                 + (1 - a)/2 sum_i (f(x_i) - f_{t-1}(x_i))^2 + r/2 |f|^2,

f_0(x_i) = y_i. On the host, in float64.

Axes: n training points, m points to predict at, C outputs, T steps.
References: borup2021teacher.
"""
import numbers

import numpy as np

from kt_jax import core


def kernel_ridge_path(kernel, targets, ridges, *, at=None) -> np.ndarray:
  """Predictions of kernel ridge regression for each of many ridges.

    f = K_at (K + r I)^-1 y

  Args:
    kernel: `[n, n]`, symmetric and positive semi-definite.
    targets: `[n]` or `[n, C]`.
    ridges: R numbers r > 0.
    at: `[m, n]`, kernel between the points to predict at and the training
      points; None: the training points.

  Returns:
    `[R, m]` or `[R, m, C]`.
  """
  kernel, targets, at = _arrays('kernel_ridge_path', kernel, targets, at)
  for ridge in ridges:
    _check_ridge('kernel_ridge_path', ridge)
  values, vectors = np.linalg.eigh(kernel)
  rotated = vectors.T @ targets
  return np.stack([
      at @ vectors @ (rotated.T / (values + ridge)).T for ridge in ridges])


def self_distillation_fit(kernel, targets, ridge: float, *,
                          label_weight: float, steps: int,
                          at=None) -> np.ndarray:
  """Predictions of the first steps, f_1 ... f_T.

    f_t = K_at (K + r I)^-1 (a y + (1 - a) f_{t-1}(x))

  Args:
    kernel: `[n, n]`, symmetric and positive semi-definite.
    targets: `[n]` or `[n, C]`.
    ridge: r > 0.
    label_weight: a in [0, 1]. Many papers call the share of the teacher alpha;
      here it is that of the labels.
    steps: T >= 1; the first is plain ridge regression.
    at: `[m, n]`, as in `kernel_ridge_path`.

  Returns:
    `[T, m]` or `[T, m, C]`.
  """
  name = 'self_distillation_fit'
  kernel, targets, at = _arrays(name, kernel, targets, at)
  _check_ridge(name, ridge)
  _check_weight(name, label_weight)
  _check_steps(name, steps)
  solve = lambda y: np.linalg.solve(kernel + ridge * np.eye(len(kernel)), y)
  fitted, out = targets, []
  for _ in range(steps):
    weights = solve(label_weight * targets + (1 - label_weight) * fitted)
    fitted = kernel @ weights
    out.append(at @ weights)
  return np.stack(out)


def self_distillation_spectrum(kernel, ridge: float, *, label_weight: float,
                               steps: int) -> tuple[np.ndarray, np.ndarray]:
  """The share of the labels in each step, by eigenvector of K = V D V'.

    f_t(x) = V B_t V' y,   A = D (D + r I)^-1,
    B_1 = A,   B_t = A (a I + (1 - a) B_{t-1})

  Args:
    kernel: `[n, n]`, symmetric and positive semi-definite.
    ridge: r > 0.
    label_weight: a in [0, 1].
    steps: T >= 1.

  Returns:
    `(vectors [n, n], B [T, n])`: V in columns, by ascending eigenvalue, and the
    diagonals of B_1 ... B_T.
  """
  name = 'self_distillation_spectrum'
  kernel, *_ = _arrays(name, kernel, np.zeros(len(np.atleast_1d(kernel))), None)
  _check_ridge(name, ridge)
  _check_weight(name, label_weight)
  _check_steps(name, steps)
  values, vectors = np.linalg.eigh(kernel)
  first = values / (values + ridge)
  # B_t = A (a + (1 - a) B_{t-1}) is affine: its distance to the limit shrinks
  # by (1 - a) A per step.
  limit = label_weight * values / (label_weight * values + ridge)
  rate = ((1 - label_weight) * first)**np.arange(steps)[:, None]
  return vectors, limit + rate * (first - limit)


def self_distillation_limit(kernel, targets, ridge: float, *,
                            label_weight: float, at=None) -> np.ndarray:
  """Predictions after infinitely many steps: ridge regression with r / a.

  Args:
    kernel: `[n, n]`, symmetric and positive semi-definite.
    targets: `[n]` or `[n, C]`.
    ridge: r > 0.
    label_weight: a in [0, 1]; 0 ends in the function that is zero.
    at: `[m, n]`, as in `kernel_ridge_path`.

  Returns:
    `[m]` or `[m, C]`.
  """
  name = 'self_distillation_limit'
  _, checked, points = _arrays(name, kernel, targets, at)
  _check_ridge(name, ridge)
  _check_weight(name, label_weight)
  if not label_weight:
    return np.zeros((len(points), *checked.shape[1:]))
  return kernel_ridge_path(kernel, targets, [ridge / label_weight], at=at)[0]


def optimal_label_weight(kernel, targets, previous, ridge: float, *, at,
                         at_targets) -> float:
  """The share of labels in the next step that fits validation points best.

    a* = <u, v> / <v, v>,   v = M (y - f_{t-1}(x)),
    u = y_at - M f_{t-1}(x),   M = K_at (K + r I)^-1,

  because the prediction of the step is affine in a.

  Args:
    kernel: `[n, n]`, symmetric and positive semi-definite.
    targets: `[n]` or `[n, C]`.
    previous: of the same shape, f_{t-1} at the training points.
    ridge: r > 0.
    at: `[m, n]`, kernel between validation and training points.
    at_targets: `[m]` or `[m, C]`.

  Returns:
    The minimiser of the squared error; it may lie outside [0, 1].

  Raises:
    UserError: the previous step fits the labels, so that no share matters.
  """
  name = 'optimal_label_weight'
  kernel, targets, at = _arrays(name, kernel, targets, at)
  _check_ridge(name, ridge)
  previous, at_targets = (np.asarray(x, np.float64)
                          for x in (previous, at_targets))
  for what, value, shape in [
      ('previous', previous, targets.shape),
      ('at_targets', at_targets, (len(at), *targets.shape[1:]))]:
    if value.shape != shape:
      raise ValueError(f'{name}: {what} has shape {value.shape}, not {shape}.')
  push = lambda y: at @ np.linalg.solve(
      kernel + ridge * np.eye(len(kernel)), y)
  direction = push(targets - previous)
  if not direction.any():
    raise core.UserError(f'{name}: previous equals the targets at all points: '
                         'every share has the same result.')
  return float(np.sum((at_targets - push(previous)) * direction)
               / np.sum(direction**2))


def _arrays(name, kernel, targets, at):
  kernel, targets = (np.asarray(x, np.float64) for x in (kernel, targets))
  n = len(targets) if targets.ndim else 0
  if kernel.shape != (n, n) or targets.ndim > 2:
    raise ValueError(f'{name}: kernel has shape {kernel.shape}, targets '
                     f'{targets.shape}; they must be [n, n] and [n] or [n, C].')
  if not np.allclose(kernel, kernel.T, rtol=1e-8, atol=1e-10):
    raise ValueError(f'{name}: kernel must be symmetric.')
  at = kernel if at is None else np.asarray(at, np.float64)
  if at.ndim != 2 or at.shape[1] != n:
    raise ValueError(f'{name}: at has shape {at.shape}; it must be [m, {n}].')
  return kernel, targets, at


def _check_ridge(name, ridge):
  if not (isinstance(ridge, numbers.Real) and 0 < float(ridge) < np.inf):
    raise core.UserError(f'{name}: ridge must be above 0, got {ridge!r}.')


def _check_weight(name, weight):
  if not (isinstance(weight, numbers.Real) and 0 <= float(weight) <= 1):
    raise core.UserError(
        f'{name}: label_weight must be in [0, 1], got {weight!r}.')


def _check_steps(name, steps):
  if not isinstance(steps, numbers.Integral) or steps < 1:
    raise core.UserError(f'{name}: steps must be at least 1, got {steps!r}.')
