"""Layer swapping: middle layers of one expert between the ends of another."""
from typing import Any

from kt_jax import core
from kt_jax import merge
from kt_jax.procedures.merge_per_leaf import merge_per_leaf


def layer_swap(outer, middle, *, bottom: int = 5, top: int = 2,
               transition: int = 1, others: float = 0.0) -> dict[str, Any]:
  """Puts the middle layers of one model between the ends of another.

    (1 - w_l) outer + w_l middle,
    w = 0 ... 0 (bottom) 1/2 (transition) 1 ... 1 1/2 (transition) 0 ... 0 (top)

  For a task in another language: `outer` is the expert of the language and
  `middle` that of the task, fine-tuned from one base. The inverse swap is the
  same call with the models exchanged.

  Args:
    outer: flat dict, path -> array.
    middle: like `outer`.
    bottom: number of first layers from `outer`.
    top: number of last layers from `outer`.
    transition: number of layers, at each end of the middle, that are the mean
      of both.
    others: w of leaves outside of layers: embeddings, final norm, head.

  Returns:
    A dict like `outer`; leaves outside of transitions are copies, bit for bit.
    The layer of a leaf is the first number in its path.

  Raises:
    UserError: fewer layers than the zones need.

  Departures: the paper averages in transitions without the shares; here they
    are halves. That leaves outside of layers are those of `outer` is ours.

  References: bandarkar2024swap.
  """
  weight = swap_weights(outer, bottom=bottom, top=top, transition=transition,
                        others=others)
  return merge_per_leaf(merge.linear, outer, [middle],
                        {path: [w] for path, w in weight.items()})


def swap_weights(paths, *, bottom: int = 5, top: int = 2, transition: int = 1,
                 others: float = 0.0) -> dict[str, float]:
  """The weight of the middle model in each leaf, as in `layer_swap`.

  Args:
    paths: of the leaves; layers count from 0 to the highest number in them.
    bottom: number of first layers from the outer model.
    top: number of last layers from it.
    transition: number of layers at each end of the middle that are means.
    others: w of leaves outside of layers.

  Returns:
    Path -> w in [0, 1].

  Raises:
    UserError: fewer layers than the zones need.

  References: bandarkar2024swap.
  """
  layers = {path: merge.layer_of(path) for path in paths}
  count = 1 + max((n for n in layers.values() if n is not None), default=-1)
  if min(bottom, top, transition) < 0 or (
      bottom + top + 2 * transition > count):
    raise core.UserError(
        f'swap_weights: {count} layers cannot have bottom {bottom}, top {top} '
        f'and two transitions of {transition}.')
  core.check_fraction('swap_weights', others=others)

  def at(layer: int) -> float:
    # The number of layers between this one and the nearer end zone.
    inside = min(layer - bottom, count - 1 - top - layer)
    return 0.0 if inside < 0 else 0.5 if inside < transition else 1.0

  return {path: others if n is None else at(n) for path, n in layers.items()}
