"""Embeddings and temperature of the token-level relationship graph."""
from flax import nnx
import jax

from kt_jax.modules.embedding_head import EmbeddingHead
from kt_jax.modules.scheduled import Scheduled


class TokenGraph(nnx.Module):
  """Embeddings and temperature for the global part of `losses.token_graph`.

  Arrays, by name:
    student_features: `[B, N, D]` tokens or a map `[B, H, W, D]`, at
      construction and call.
    teacher_features: the same B and N, of any width, at construction and call.
    step: at the call, scalar integer, the number of updates so far.
    where: `[B]` bool, at the call, the valid images; others are read as 0.

  Settings:
    width: of the embeddings.
    start: temperature at update 0.
    end: temperature at update `steps`, along a cosine.
    steps: see `Scheduled`.

  Returns:
    `student_embeddings`, `teacher_embeddings` `[B, N, width]` or `[B, H, W,
    width]`, and `temperature`, all at least float32. The features stay as they
    are, because the graphs are of them.

  Departures: in the paper the temperature falls; numbers and form are ours.

  References: zhang2023trg.
  """

  def __init__(self, student_features, teacher_features, *, rngs: nnx.Rngs,
               width: int = 128, start: float = 1.0, end: float = 0.1,
               steps: int = 93600):
    self.embed = EmbeddingHead(student_features, teacher_features, rngs=rngs,
                               width=width, normalize=False, flatten=False)
    self.temperature = Scheduled(steps=steps, start=start, end=end)

  def __call__(self, student_features, teacher_features, step, where=None
              ) -> dict[str, jax.Array]:
    out = self.embed(student_features, teacher_features, where)
    return {'student_embeddings': out['student_features'],
            'teacher_embeddings': out['teacher_features'],
            **self.temperature(step)}
