"""Dynamic logit fusion."""
import jax
from jax import numpy as jnp

from kt_jax import core
from kt_jax.fuse._divergences import divergences
from kt_jax.fuse._search import best_on_grid
from kt_jax.fuse._search import best_single
from kt_jax.fuse._shift import shift
from kt_jax.fuse.emulated_fine_tuning import emulated_fine_tuning

_SOLVERS = ('bisection', 'grid')
_EXPERTS = ('one', 'joint')


def dynamic_logit_fusion(
    base_logits: jax.Array,
    expert_logits: jax.Array,
    anti_expert_logits: jax.Array,
    *,
    solver: str = 'bisection',
    largest: float = 2.0,
    points: int = 21,
    experts: str = 'one',
) -> tuple[jax.Array, jax.Array]:
  r"""Shifts a model as far as tuning shifted others, token by token.

    p(a) = softmax(log p_base + sum_t a_t (log q_t - log q_0,t)),
    f(a) = sum_t [KL(p(a) || p_base) - KL(q_t || q_0,t)]^2
               + [KL(p_base || p(a)) - KL(q_0,t || q_t)]^2,

  q_t being expert t and q_0,t its anti-expert; a minimizes f. Up to a constant,
  f is T times the squared distance of two numbers, the base's divergences, from
  the means of the experts'. The search uses that; it leaves more than two a_t
  undetermined if all are free.

  Args:
    base_logits: `[..., V]` raw logits of the large model.
    expert_logits: `[..., V]`, or `[T, ..., V]` for several tuned models.
    anti_expert_logits: `[..., V]` or as the expert's: the experts before
      they were tuned.
    solver: 'grid', the best of a grid; 'bisection', then the zero of f' in the
      two cells around that.
    largest: the largest weight; the smallest is 0.
    points: number of points of the grid on [0, largest], >= 2.
    experts: 'one': each token is shifted by one expert, that with the least f;
      'joint': by all, which needs the grid and points^T trials.

  Returns:
    `[..., V]` log-probabilities, those of `emulated_fine_tuning` at scale
    a, and the weights a, `[...]` or `[T, ...]`; at least float32. An expert
    no further from its anti-expert than rounding leaves f flat: its a is 0.
    Ties go to the smaller a, the earlier expert. a has no gradient.

  Raises:
    UserError: another vocabulary or T, or a setting that is not allowed.

  Departures: the paper has the grid and no masks. The search leaves out words
  that only an expert masks: they would be infinitely far.

  References: fan2024dlf, Sec. 3.
  """
  fn = 'dynamic_logit_fusion'
  _check(fn, solver, largest, points, experts)
  arrays = base_logits, expert_logits, anti_expert_logits
  frozen = map(jax.lax.stop_gradient, arrays)
  delta, masked, log_q = shift(fn, *frozen)
  log_p = jax.nn.log_softmax(jnp.where(
      jnp.any(masked, axis=0), -jnp.inf, core.to_float(base_logits)))
  forth, back, _ = divergences(log_q, delta)
  flat = forth + back < jnp.finfo(delta.dtype).eps
  delta = jnp.where(flat[..., None], 0, delta)
  aims = jnp.mean(forth, axis=0), jnp.mean(back, axis=0)
  grid = jnp.linspace(0, largest, points, dtype=delta.dtype)
  if experts == 'joint':
    weight = best_on_grid(log_p, delta, aims, grid)
  else:
    weight = best_single(log_p, delta, aims, grid, solver == 'bisection')
  if expert_logits.ndim == base_logits.ndim:
    weight = weight[0]
  return emulated_fine_tuning(*arrays, scale=weight), weight


def _check(fn, solver, largest, points, experts):
  for name, value, allowed in (('solver', solver, _SOLVERS),
                               ('experts', experts, _EXPERTS)):
    if value not in allowed:
      raise core.UserError(core.nearest(f'{name} of {fn}', value, allowed))
  core.check_positive(fn, largest=largest)
  if points < 2:
    raise core.UserError(f'{fn}: points must be >= 2, got {points}.')
  if experts == 'joint' and solver != 'grid':
    raise core.UserError(
        f"{fn}: experts='joint' needs solver='grid', got {solver!r}.")
