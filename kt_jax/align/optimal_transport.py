"""Soft correspondences between the units of two networks of any widths."""
from collections.abc import Mapping
from typing import Any

from jax import numpy as jnp
import numpy as np
from scipy import optimize
from scipy.spatial import distance

from kt_jax import core
from kt_jax.align import spec as specs
from kt_jax.align.transport import carry
from kt_jax.align.transport import check_incoming

_SOLVERS = ('exact', 'sinkhorn')


def optimal_transport(
    params_a: Any, params_b: Any, spec: specs.Spec, *,
    features_a: Mapping[str, Any] | None = None,
    features_b: Mapping[str, Any] | None = None,
    solver: str = 'exact', regularization: float = 0.05,
    incoming: str = 'columns',
) -> dict[str, np.ndarray]:
  r"""Transport maps from A's units to B's, group by group, inputs first.

    T = n_B argmin over plans P of  sum_ij P_ij |a_i - b_j|,
    P 1 = 1/n_A,  P' 1 = 1/n_B

  where a_i are the incoming weights of unit i of A, already transported to B's
  units by the earlier maps, and its bias, scale and shift; or, with features,
  its activations. `transport(params_a, spec, T)` is A at B's widths; the fused
  network is its mean with B (`merge.linear`).

  Args:
    params_a: pytree.
    params_b: pytree of the same leaves; sizes of groups may differ.
    spec: path of every leaf -> an entry for each axis, in the order in which
      the network runs. The last axis of a leaf is its output, the others are
      inputs, as in Flax.
    features_a: None to compare weights, or name of each group -> `[N, ...,
      units]`, activations of A on about 200 inputs.
    features_b: the same of B, on the same inputs in the same order.
    solver: 'exact' or 'sinkhorn'. Exact plans between equal widths are
      permutations (SciPy); between unequal ones they need POT. Sinkhorn needs
      ott-jax. Both come with `pip install 'kt_jax[align]'`.
    regularization: factor of Sinkhorn's entropy, relative to the largest cost.
    incoming: as in `transport`, for incoming weights on the way.

  Returns:
    Name of each group -> `[units of A, units of B]`, columns of sum 1.

  Raises:
    UserError: the spec does not fit one of the networks, an axis outside of the
      groups differs, features are missing, or no order of the groups exists.
    ImportError: a solver that is not installed, with the command to install it.

  Departures: earlier maps are always applied first, which the authors' code
  does only with its flag --past-correction. It has no biases, no BatchNorm and
  no groups of several layers; here a residual stream is matched by those of its
  layers whose inputs are matched already, usually the first. Costs are not
  normalized.

  References: singh2019otfusion, Sec. 4, Algorithm 1.
  """
  if solver not in _SOLVERS:
    raise core.UserError(core.nearest('solver', solver, _SOLVERS))
  core.check_positive('optimal_transport', regularization=regularization)
  check_incoming(incoming)
  sizes = specs.check_spec(params_a, spec)
  specs.check_spec(params_b, spec)
  a, b = specs.host(params_a), specs.host(params_b)
  _check_alike(a, b, spec)
  solve = lambda x, y: _plan(distance.cdist(x, y), solver, regularization)
  if (features_a is None) != (features_b is None):
    raise core.UserError('optimal_transport: features_a and features_b come '
                         'together.')
  if features_a is not None:
    return {name: solve(*_features(name, entry, features_a, features_b))
            for name, entry in specs.group_names(spec).items()
            if name in sizes}
  maps: dict[str, np.ndarray] = {}
  while len(maps) < len(sizes):
    name, readable = _next(a, spec, sizes, maps)
    rows_a, rows_b = [], []
    for path, part in readable:
      rows_a.append(specs.units(
          carry(path, a[path], spec, maps, incoming, part), part))
      last = specs.parts(path, spec[path], b[path].shape)[-1]
      rows_b.append(specs.units(b[path], last))
    maps[name] = solve(np.hstack(rows_a), np.hstack(rows_b))
  return maps


def _next(leaves, spec, sizes, maps):
  """`(group, [(path, part)])`: a group, and leaves with matched inputs only."""
  readable = {name: [] for name in sizes if name not in maps}
  for path in (path for path in spec if path in leaves):
    x = leaves[path]
    parts = specs.parts(path, spec[path], x.shape)
    if (parts and parts[-1].axis == x.ndim - 1 and parts[-1].name in readable
        and all(part.name in maps for part in parts[:-1])
        and np.issubdtype(x.dtype, np.floating)):
      readable[parts[-1].name].append((path, parts[-1]))
  # A vector (bias, scale) has little information: a group waits for a matrix.
  for least in (2, 1):
    for name, places in readable.items():
      if any(leaves[path].ndim >= least for path, _ in places):
        return name, places
  raise core.UserError('optimal_transport: no leaf has an output in any of the '
                       f'groups {list(readable)} and all its inputs fixed or '
                       'matched; give features.')


def _plan(cost: np.ndarray, solver: str, regularization: float) -> np.ndarray:
  """The optimal plan between uniform measures, columns of sum 1."""
  n, m = cost.shape
  if solver == 'sinkhorn':
    plan = _sinkhorn(cost, regularization)
  elif n == m:
    plan = np.zeros_like(cost)
    plan[optimize.linear_sum_assignment(cost)] = 1
  else:
    try:
      import ot  # pyrefly: ignore[missing-import]
    except ImportError as e:
      raise ImportError(f'Exact transport from {n} to {m} units needs POT: pip '
                        "install 'kt_jax[align]' (or POT).") from e
    plan = np.asarray(ot.emd(np.full(n, 1 / n), np.full(m, 1 / m), cost,
                             numItermax=10**7))
  return plan / plan.sum(0, keepdims=True)


def _sinkhorn(cost: np.ndarray, regularization: float) -> np.ndarray:
  try:
    from ott.geometry import geometry  # pyrefly: ignore[missing-import]
    from ott.solvers import linear  # pyrefly: ignore[missing-import]
  except ImportError as e:
    raise ImportError("solver='sinkhorn' needs ott-jax: pip install "
                      "'kt_jax[align]' (or ott-jax).") from e
  largest = cost.max() or 1.0
  cost = (cost / largest).astype(np.float32)
  out = linear.solve(geometry.Geometry(jnp.asarray(cost),
                                       epsilon=regularization),
                     max_iterations=10_000)
  if not bool(out.converged):
    raise core.UserError('optimal_transport: Sinkhorn did not converge at '
                         f'regularization {regularization}; increase it.')
  return np.asarray(out.matrix, np.float64)


def _features(name, entry, features_a, features_b):
  for what, features in (('a', features_a), ('b', features_b)):
    if name not in features:
      raise core.UserError(f'features_{what} lacks group {name!r}.')
  a, b = (specs.feature_units(name, entry, features[name])
          for features in (features_a, features_b))
  if a.shape[1] != b.shape[1]:
    raise core.UserError(f'optimal_transport: group {name!r} has {a.shape[1]} '
                         f'samples in features_a, {b.shape[1]} in features_b.')
  return a, b


def _check_alike(a, b, spec) -> None:
  """Refuses networks that differ in other axes than those of groups."""
  for path in {**a, **b}:
    if path not in a or path not in b:
      has, lacks = ('params_a', 'params_b')[::1 if path in a else -1]
      raise core.UserError(f'optimal_transport: {has} has leaf {path!r}, '
                           f'{lacks} does not.')
    if a[path].ndim == b[path].ndim and all(
        entry is not None or n == m for entry, n, m in zip(
            spec[path], a[path].shape, b[path].shape)):
      continue
    raise core.UserError(
        f'optimal_transport: leaf {path!r} is {a[path].shape} in params_a, '
        f'{b[path].shape} in params_b, on an axis that is in no group.')
