"""Where a tensor stands in a model, told from names alone."""
from collections.abc import Iterable, Mapping
import re
from typing import Any, NamedTuple

from kt_jax.cli import embeddings

_NUMBER = re.compile(r'(.*?)(?<![^./])(\d+)(?![^./])(.*)')
_HEAD = re.compile(r'(.*\.)?(lm_head(\.(decoder|linear))?|embed_out|'
                   r'output_layer|vocab_projector|cls\.predictions\.decoder)'
                   r'\.weight|output\.weight')
_FIRST = re.compile(r'emb|wte|wpe|position|patch|cls_token|pre_conv')
_BUFFER = re.compile(r'inv_freq$|position_ids$|masked_bias$|attn\.bias$|'
                     r'attention\.bias$|num_batches_tracked$')
# What configs call the number of layers.
_COUNTS = ('num_hidden_layers', 'n_layer', 'num_layers', 'n_layers')
_PARTS = ('text_config', 'llm_config', 'language_config')


class Place(NamedTuple):
  """`stack + str(layer) + rest` is the name; no layer: all of it is `rest`."""
  stack: str
  layer: int | None
  rest: str


class Layout(NamedTuple):
  places: Mapping[str, Place]  # by tensor
  stacks: Mapping[str, int]  # how many layers each stack has


def read_layout(names: Iterable[str], config: Mapping[str, Any] | None
                ) -> Layout:
  """Finds stacks of layers: what shares a name up to its first number.

  The numbers of a stack run from 0 without a gap. A single number 0 makes one
  only if the config says that the model has one layer; others belong to no
  layer.
  """
  places, layers = {}, {}
  for name in names:
    found = _NUMBER.fullmatch(name)
    places[name] = Place(found[1], int(found[2]), found[3]) if found else Place(
        '', None, name)
    if found:
      layers.setdefault(found[1], set()).add(int(found[2]))
  stacks = {stack: len(seen) for stack, seen in layers.items()
            if max(seen) == len(seen) - 1
            and (len(seen) > 1 or count_layers(config) == 1)}
  return Layout({name: place if place.stack in stacks else Place('', None, name)
                 for name, place in places.items()}, stacks)


def parts(config: Mapping[str, Any] | None) -> list[dict[str, Any]]:
  """The config and those within it that speak of the language model."""
  if not config:
    return []
  return [config] + [config[p] for p in _PARTS if isinstance(
      config.get(p), dict)]


def layer_counts(config: Mapping[str, Any] | None) -> list[tuple[dict, str]]:
  """Places in a config that say how many layers there are."""
  return [(part, key) for part in parts(config) for key in _COUNTS
          if type(part.get(key)) is int]


def count_layers(config: Mapping[str, Any] | None) -> int | None:
  return next((part[key] for part, key in layer_counts(config)), None)


def is_tied(config: Mapping[str, Any] | None) -> bool | None:
  """Whether the head is the embedding; None if the config does not say."""
  return next((part['tie_word_embeddings'] for part in parts(config)
               if isinstance(part.get('tie_word_embeddings'), bool)), None)


def is_head(name: str) -> bool:
  """Whether it is the output layer over the vocabulary."""
  return _HEAD.fullmatch(name) is not None


def embedding_of(tensors: Mapping[str, Any]) -> str | None:
  """The input embedding that a tied head stands for."""
  return next((name for name, tensor in tensors.items()
               if embeddings.is_vocabulary(name) and not is_head(name)
               and name.endswith('weight') and len(tensor.shape) == 2), None)


def is_first(name: str) -> bool:
  """Whether it comes before the layers rather than behind them."""
  return not is_head(name) and _FIRST.search(name) is not None


def is_buffer(name: str, shape) -> bool:
  """Whether it follows from the config (masks, frequencies, counters)."""
  if name.endswith('.bias'):  # causal masks of old checkpoints
    return len(shape) == 4 and _BUFFER.search(name) is not None
  return _BUFFER.search(name) is not None
