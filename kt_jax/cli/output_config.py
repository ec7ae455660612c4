"""config.json of the result: the base's, with what the merge changed."""
from collections.abc import Mapping, Sequence
import copy
import re
from typing import Any

from kt_jax.cli import layout
from kt_jax.cli import problems as problems_lib

# Lists that may be as long as there are layers by chance.
_NOT_LAYERS = re.compile(r'token|architectures|label|languages|_ids$')
# Numbers and lists that count layers in ways of their own.
_ODD = ('max_window_layers', 'first_k_dense_replace', 'mlp_only_layers',
        'num_kv_shared_layers', 'sliding_window_pattern')


def make_config(recipe, sources: Mapping[str, Any], jobs: Sequence[Any],
                heads: Sequence[str], vocab_size: int | None,
                problems: problems_lib.Problems) -> dict[str, Any] | None:
  """The config of the base model or, without one, of the first source.

  Numbers of layers and lists with an entry for each layer follow the slices,
  entries coming from the first source of each; then the size of the
  vocabulary, whether the head is tied, and the dtype.

  Returns:
    The config, or None if that model has none.
  """
  first = recipe.slices[0].sources[0].model
  donor = recipe.base_model if recipe.base_model in sources else first
  if not sources[donor].config:
    return None
  config = copy.deepcopy(dict(sources[donor].config))
  if not recipe.whole:
    _cut(config, recipe, sources, problems)
  for part in layout.parts(config):
    if vocab_size is not None and 'vocab_size' in part:
      part['vocab_size'] = vocab_size
  if any(job.name in heads for job in jobs):
    # A head of its own would be passed over by a config that says tied.
    untied = any(layout.is_tied(sources[m].config) is not True
                 for m in recipe.references)
    for part in layout.parts(config):
      if untied and part.get('tie_word_embeddings') is True:
        part['tie_word_embeddings'] = False
        problems.add('note', 'tie_word_embeddings becomes false: the result '
                     'has a head of its own.')
  elif layout.is_tied(config) is False:
    problems.add('warning', 'tie_word_embeddings is false, and no input has a '
                 'head.')
  _set_dtype(config, recipe, jobs)
  return config


def _cut(config, recipe, sources, problems):
  taken = []  # (model, layer) for each layer of the result
  for part in recipe.slices:
    model, (start, stop), _ = part.sources[0]
    taken += [(model, layer) for layer in range(start, stop)]
  was = layout.count_layers(config)
  if was is None:
    problems.add('warning', 'config.json says nowhere how many layers there '
                 f'are; the result has {len(taken)}.')
    return
  for number, part in enumerate(layout.parts(config)):
    for key, value in part.items():
      if isinstance(value, list) and len(value) == was > 1 and (
          not _NOT_LAYERS.search(key)):
        entries = [_entry(sources[model].config, number, key, layer)
                   for model, layer in taken]
        if None not in entries:
          part[key] = [e[0] for e in entries]
      if key in _ODD and value:
        problems.add('warning', f'config.json: {key} counts layers and is left '
                     f'as it is, {value}.')
  for part, key in layout.layer_counts(config):
    if part[key] == was:
      part[key] = len(taken)


def _entry(config, number, key, layer):
  """The entry of a layer, in a tuple; None where a model has no such list."""
  found = layout.parts(config)
  value = found[number].get(key) if number < len(found) else None
  if not isinstance(value, list) or layer >= len(value):
    return None
  return (value[layer],)


def _set_dtype(config, recipe, jobs):
  dtypes = {str(job.dtype) for job in jobs if job.dtype is not None}
  if len(dtypes) != 1:
    return
  dtype = dtypes.pop()
  key = 'dtype' if 'dtype' in config else 'torch_dtype'
  for number, part in enumerate(layout.parts(config)):
    if key in part or (number == 0 and (recipe.dtype or recipe.out_dtype)):
      part[key] = dtype
