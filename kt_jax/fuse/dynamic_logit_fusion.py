"""Dynamic logit fusion."""
import jax
from jax import numpy as jnp

from kt_jax import core
from kt_jax.fuse.divergences import divergences
from kt_jax.fuse.emulated_fine_tuning import emulated_fine_tuning
from kt_jax.fuse.search import best_of_all
from kt_jax.fuse.search import best_on_a_line
from kt_jax.fuse.shift import shift

SOLVERS = ('bisection', 'grid')
EXPERTS = ('one', 'joint')


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
  r"""Moves a model as far as tuning moved others, anew for every token.

    p(a) = softmax(log p_base + sum_t a_t (log q_t - log q_0,t)),
    f(a) = sum_t [KL(p(a) || p_base) - KL(q_t || q_0,t)]^2
               + [KL(p_base || p(a)) - KL(q_0,t || q_t)]^2,

  q_t being expert t and q_0,t its anti-expert; a is where f is least. Up to a
  constant, f is T times the squared distance of two numbers, the base's
  divergences, to the means of the experts'. The search uses that, and it leaves
  more than two a_t undetermined if all are free.

  Args:
    base_logits: `[..., V]` raw logits of the large model.
    expert_logits: `[..., V]`, or `[T, ..., V]` for several tuned models.
    anti_expert_logits: `[..., V]` or as the expert's: what the experts were
      before they were tuned.
    solver: 'grid', the best of a grid; 'bisection', then the zero of f' in the
      two cells around that.
    largest: of the weights; the least is 0.
    points: of the grid on [0, largest], >= 2.
    experts: 'one': one expert moves a token, that with the least f; 'joint':
      all may, which takes the grid and points^T tries.

  Returns:
    `[..., V]` log-probabilities, as `emulated_fine_tuning` of scale a gives
    them, and the weights a, `[...]` or `[T, ...]`; at least float32. An expert
    no further from its anti-expert than rounding leaves f flat: its a is 0.
    Ties go to the smaller a, the earlier expert. Gradients take a as constant.

  Raises:
    UserError: another vocabulary or T, or a setting that is not allowed.

  Departures: the paper has the grid and no masks. A word that an expert alone
  masks would be infinitely far: the search is over the other words.

  References: fan2024dlf, Sec. 3.
  """
  fn = 'dynamic_logit_fusion'
  check(fn, solver, largest, points, experts)
  arrays = base_logits, expert_logits, anti_expert_logits
  frozen = map(jax.lax.stop_gradient, arrays)
  delta, gone, log_q = shift(fn, *frozen)
  log_p = jax.nn.log_softmax(jnp.where(
      jnp.any(gone, axis=0), -jnp.inf, core.to_float(base_logits)))
  forth, back, _ = divergences(log_q, delta)
  flat = forth + back < jnp.finfo(delta.dtype).eps
  delta = jnp.where(flat[..., None], 0, delta)
  aims = jnp.mean(forth, axis=0), jnp.mean(back, axis=0)
  grid = jnp.linspace(0, largest, points, dtype=delta.dtype)
  if experts == 'joint':
    weight = best_of_all(log_p, delta, aims, grid)
  else:
    weight = best_on_a_line(log_p, delta, aims, grid, solver == 'bisection')
  if expert_logits.ndim == base_logits.ndim:
    weight = weight[0]
  weight = jax.lax.stop_gradient(weight)
  return emulated_fine_tuning(*arrays, scale=weight), weight


def check(fn, solver, largest, points, experts):
  """Refuses settings that are not allowed."""
  for name, value, known in (('solver', solver, SOLVERS),
                             ('experts', experts, EXPERTS)):
    if value not in known:
      raise core.UserError(core.nearest(f'{name} of {fn}', value, known))
  core.check_positive(fn, largest=largest)
  if points < 2:
    raise core.UserError(f'{fn}: points must be >= 2, got {points}.')
  if experts == 'joint' and solver != 'grid':
    raise core.UserError(
        f"{fn}: experts='joint' needs solver='grid', got {solver!r}.")
