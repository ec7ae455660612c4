"""Permutations that align the weights of two networks."""
from typing import Any

import numpy as np
from scipy import optimize

from kt_jax import core
from kt_jax.align import spec as specs


def weight_matching(params_a: Any, params_b: Any, spec: specs.Spec, *,
                    seed: int = 0, iterations: int = 100
                   ) -> dict[str, np.ndarray]:
  r"""Reorders A's units so that its weights resemble B's; needs no data.

    max over P of  sum_leaves <permute(A, P), B>

  which minimizes the squared distance. Coordinate ascent: the best permutation
  of one group, with all others fixed, is a linear assignment; each sweep visits
  the groups in random order, until a sweep gains nothing: a local optimum.

  Args:
    params_a: pytree, the network to be permuted.
    params_b: pytree of the same shapes.
    spec: path of every leaf -> an entry for each axis (see `kt_jax.align`).
    seed: of the order of groups.
    iterations: largest number of sweeps.

  Returns:
    Name of each group -> `[units]` int, the argument of `permute(params_a,
    ...)`.

  Raises:
    UserError: the spec does not fit, or the networks differ in shape.

  Departures: A moves towards B here, in the paper B towards A, which is the
  same search. A gain counts above 1e-12 of the assignment's value if that is
  above 1, because of rounding. A group on two axes of one leaf makes the
  problem quadratic; the assignment is then a proposal, rejected if it gains
  nothing, where the authors' code accepts it. Parameters without a group (None)
  add a constant.

  References: ainsworth2022rebasin, Sec. 3.2, Algorithm 1.
  """
  sizes = specs.check_spec(params_a, spec)
  a, b = specs.host(params_a), specs.host(params_b)
  _check_alike(a, b)
  places = {name: [] for name in sizes}  # group -> [(path, part)]
  for path in (path for path in spec if path in a):
    if np.issubdtype(a[path].dtype, np.floating):
      for part in specs.parts(path, spec[path], a[path].shape):
        places[part.name].append((path, part))
  order = {name: np.arange(size) for name, size in sizes.items()}

  def moved(path, but=None):
    x = a[path]
    for part in specs.parts(path, spec[path], x.shape):
      if part != but:
        x = specs.fold(specs.unfold(x, part).take(
            order[part.name], axis=part.axis + 1), part)
    return x

  def value(name):
    return sum(np.vdot(moved(path), b[path])
               for path in {path for path, _ in places[name]})

  random = np.random.default_rng(seed)
  names = sorted(sizes)
  for _ in range(iterations):
    progress = False
    for name in (names[n] for n in random.permutation(len(names))):
      score = sum((specs.units(b[path], part) @ specs.units(
          moved(path, part), part).T for path, part in places[name]),
          np.zeros((sizes[name],) * 2))
      rows, best = optimize.linear_sum_assignment(score, maximize=True)
      old, before = order[name], score[rows, order[name]].sum()
      after = score[rows, best].sum()
      if len({path for path, _ in places[name]}) < len(places[name]):
        before = value(name)
        order[name] = best
        after = value(name)
      if after - before > 1e-12 * max(1.0, abs(before)):
        order[name], progress = best, True
      else:
        order[name] = old
    if not progress:
      break
  return order


def _check_alike(a, b) -> None:
  for path, x in a.items():
    if path not in b or b[path].shape != x.shape:
      has = f'has shape {b[path].shape}' if path in b else 'is missing'
      raise core.UserError(
          f'weight_matching: leaf {path!r} is {x.shape} in params_a, in '
          f'params_b it {has}. For other widths use optimal_transport.')
  for path in b:
    if path not in a:
      raise core.UserError(f'weight_matching: params_b has leaf {path!r}, '
                           'params_a does not.')
