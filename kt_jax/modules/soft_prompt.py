"""Learned embeddings before a model's input."""
from flax import nnx

from kt_jax import core


class SoftPrompt(nnx.Module):
  """Embeddings before every row of a frozen decoder.

  Settings:
    width: of the decoder.
    count: P, number of embeddings.

  Parameters: `embedding` `[P, width]`, initially normal with deviation 0.02.

  References: lester2021prompt; kim2024promptkd, Sec. 3.
  """

  def __init__(self, *, rngs: nnx.Rngs, width: int, count: int = 7):
    core.check_positive('SoftPrompt', width=width, count=count)
    self.embedding = nnx.Param(nnx.initializers.normal(0.02)(
        rngs.params(), (count, width)))
