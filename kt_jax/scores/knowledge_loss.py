"""Knowledge lost by a student."""
import jax

from kt_jax.scores import _flips


def knowledge_loss(
    initial_logits: jax.Array,
    student_logits: jax.Array,
    labels: jax.Array,
    where: jax.Array | None = None,
) -> jax.Array:
  """Share of examples wrong after transfer and right before.

  `rho_negative` of the student after (as teacher) against the one before.

  Args:
    initial_logits: `[N, K]` of the student before transfer.
    student_logits: `[N, K]` of the student after it.
    labels: `[N]` integer class ids.
    where: `[N]` examples that count.

  Returns:
    Scalar float32 in [0, 1], of all n examples that count; 0 if none count.

  Departures: the authors' code reports percent.

  References: roth2024fantastic (transfer results).
  """
  hits = _flips.positive_flips(
      'knowledge_loss', labels, student_logits=student_logits,
      initial_logits=initial_logits, where=where)
  return _flips.rate(hits, where)
