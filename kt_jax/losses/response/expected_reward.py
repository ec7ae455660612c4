"""Expected reward of an answer, for learning from right and wrong alone."""
import jax

from kt_jax import core
from kt_jax.losses.response._labels import expected


def expected_reward(student_logits: jax.Array, labels: jax.Array) -> jax.Array:
  r"""Minus the reward of an answer, in expectation over the answers.

    -sum_a p(a) r(a),   p = softmax(z),   r(a) = 1 if a is the label, else 0.

  Its gradient is that of REINFORCE with every answer drawn as often as the
  policy would: -sum_a p(a) r(a) grad log p(a).

  Args:
    student_logits: `[..., K]` raw logits z of the policy.
    labels: `[...]` integer class ids, or `[..., K]` rewards r in [0, 1]. An id
      outside 0..K-1 gives NaN.

  Returns:
    `[...]` losses in [-1, 0], at least float32.

  Example:
    >>> expected_reward(jnp.log(jnp.array([[0.7, 0.3]])), jnp.array([1]))
    Array([-0.3], dtype=float32)

  Departures: the paper (tang2026past) samples answers of a language model; a
  classifier's answers are few, and the expectation is exact.

  References: tang2026past, the objective of reinforcement learning.
  """
  core.check_logits('expected_reward', student_logits=student_logits)
  p = jax.nn.softmax(core.to_float(student_logits))
  return -expected('expected_reward', p, labels)
