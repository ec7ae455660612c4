"""Knowledge gained by a student."""
import jax

from kt_jax.scores import _flips


def knowledge_gain(
    initial_logits: jax.Array,
    student_logits: jax.Array,
    labels: jax.Array,
    where: jax.Array | None = None,
) -> jax.Array:
  """Share of examples right after transfer and wrong before.

  `rho_positive` of the student after (as teacher) against the one before; the
  accuracy rises by `knowledge_gain - knowledge_loss`.

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
      'knowledge_gain', labels, initial_logits=initial_logits,
      student_logits=student_logits, where=where)
  return _flips.rate(hits, where)
