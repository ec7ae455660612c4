"""config.json: of the models, and of the result."""
from collections.abc import Mapping, Sequence
import copy
import re
from typing import Any

from kt_jax.cli import problems as problems_lib

# Names of the number of layers.
_COUNTS = ('num_hidden_layers', 'n_layer', 'num_layers', 'n_layers')
_PARTS = ('text_config', 'llm_config', 'language_config')
# Lists that may be as long as there are layers by chance.
_NOT_LAYERS = re.compile(r'token|architectures|label|languages|_ids$')
# Numbers and lists that count layers in ways of their own.
_ODD = ('max_window_layers', 'first_k_dense_replace', 'mlp_only_layers',
        'num_kv_shared_layers', 'sliding_window_pattern')


def parts(config: dict[str, Any] | None) -> list[dict[str, Any]]:
  """The config, and those within it that describe the language model."""
  if not config:
    return []
  return [config] + [config[p] for p in _PARTS if isinstance(
      config.get(p), dict)]


def count_layers(config: dict[str, Any] | None) -> int | None:
  """The number of layers; None if the config lacks it."""
  return next((part[key] for part, key in _layer_counts(config)), None)


def is_tied(config: dict[str, Any] | None) -> bool | None:
  """Whether the head is the embedding; None if the config lacks it."""
  return next((part['tie_word_embeddings'] for part in parts(config)
               if isinstance(part.get('tie_word_embeddings'), bool)), None)


def make_config(recipe, models: Mapping[str, Any], jobs: Sequence[Any],
                heads: Sequence[str], vocab_size: int | None,
                problems: problems_lib.Problems) -> dict[str, Any] | None:
  """The config of the base model or, without one, of the first input.

  Numbers of layers and lists with an entry for each layer follow the slices,
  entries coming from the first input of each; then the size of the vocabulary,
  whether the head is tied, and the dtype.

  Args:
    recipe: a recipe.
    models: reference -> opened model.
    jobs: of the merge.
    heads: names of output layers that any model has.
    vocab_size: of the result; None: as it is.
    problems: takes what a reader of the result should know.

  Returns:
    The config, or None if that model has none.
  """
  first = recipe.slices[0].inputs[0].model
  donor = recipe.base_model if recipe.base_model in models else first
  if not models[donor].config:
    return None
  config = copy.deepcopy(dict(models[donor].config))
  if not recipe.uncut:
    _cut(config, recipe, models, problems)
  for part in parts(config):
    if vocab_size is not None and 'vocab_size' in part:
      part['vocab_size'] = vocab_size
  if any(job.name in heads for job in jobs):
    # Readers would skip a head of its own if the config had it tied.
    untied = any(is_tied(models[m].config) is not True
                 for m in recipe.references)
    for part in parts(config):
      if untied and part.get('tie_word_embeddings') is True:
        part['tie_word_embeddings'] = False
        problems.add('note', 'tie_word_embeddings becomes false: the result '
                     'has a head of its own.')
  elif is_tied(config) is False:
    problems.add('warning', 'tie_word_embeddings is false, and no input has a '
                 'head.')
  _set_dtype(config, recipe, jobs)
  return config


def _layer_counts(config) -> list[tuple[dict[str, Any], str]]:
  """`(part, key)` of each entry that is the number of layers."""
  return [(part, key) for part in parts(config) for key in _COUNTS
          if type(part.get(key)) is int]


def _cut(config, recipe, models, problems):
  layers = []  # (model, layer) for each layer of the result
  for part in recipe.slices:
    model, (start, stop), _ = part.inputs[0]
    layers += [(model, layer) for layer in range(start, stop)]
  count = count_layers(config)
  if count is None:
    problems.add('warning', 'config.json has no number of layers; the result '
                 f'has {len(layers)}.')
    return
  for number, part in enumerate(parts(config)):
    for key, value in part.items():
      if isinstance(value, list) and len(value) == count > 1 and (
          not _NOT_LAYERS.search(key)):
        entries = [_entry(models[model].config, number, key, layer)
                   for model, layer in layers]
        if all(entries):
          part[key] = [entry for entry, in entries]
      if key in _ODD and value:
        problems.add('warning', f'config.json: {key} counts layers and is left '
                     f'as it is, {value}.')
  for part, key in _layer_counts(config):
    if part[key] == count:
      part[key] = len(layers)


def _entry(config, number, key, layer) -> tuple[Any, ...]:
  """The entry of a layer, in a tuple; () where a model has no such list."""
  config_parts = parts(config)
  value = (config_parts[number].get(key) if number < len(config_parts)
           else None)
  if not isinstance(value, list) or layer >= len(value):
    return ()
  return (value[layer],)


def _set_dtype(config, recipe, jobs):
  dtypes = {str(job.dtype) for job in jobs if job.dtype is not None}
  if len(dtypes) != 1:
    return
  dtype = dtypes.pop()
  key = 'dtype' if 'dtype' in config else 'torch_dtype'
  for number, part in enumerate(parts(config)):
    if key in part or (number == 0 and (recipe.dtype or recipe.out_dtype)):
      part[key] = dtype
