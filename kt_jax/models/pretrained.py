"""Reads Hugging Face image classifiers and decoders.

A table of rules maps the names of a checkpoint to our paths; an unknown name or
a missing parameter is an error.
"""
from collections.abc import Callable
import functools
import json
import pathlib
import re
from typing import NamedTuple

from flax import nnx
import jax
from jax import numpy as jnp
import numpy as np

from kt_jax import checkpoint
from kt_jax import core
from kt_jax.models import _hf as hf
from kt_jax.models import _hf_decoder as hf_decoder
from kt_jax.models import _hf_names as hf_names
from kt_jax.models import net as net_lib
from kt_jax.models.decoder import Decoder

_SHOWN = 8  # names in an error message


class Pretrained(NamedTuple):
  build: Callable[[], nnx.Module]  # makes the network, with fresh weights
  net: net_lib.Net
  params: net_lib.Arrays  # float32
  stats: net_lib.Arrays
  input_shape: tuple[int, int, int]  # (H, W, C)
  classes: int
  mean: tuple[float, ...] | None  # per channel, pixels in [0, 1]; None: unknown
  std: tuple[float, ...] | None


def from_pretrained(directory, dtype=None):
  """Reads a network saved by Hugging Face: image classifier or decoder.

  ResNet and ViT classifiers come as `Pretrained`. GPT-2, Llama, Mistral,
  Qwen2, Qwen3, Gemma and Gemma 2 come as a `Decoder` in evaluation mode, whose
  `hf` keeps config.json for `save_pretrained`.

  Args:
    directory: has `config.json`, `model.safetensors` or a sharded
      `model.safetensors.index.json`, and perhaps `preprocessor_config.json`.
    dtype: of the weights. None: as the file has them; of image classifiers
      float32.

  Returns:
    `Pretrained`: the network, its arrays, and the format of its inputs; or a
    `Decoder`.

  Raises:
    UserError: a file is missing or damaged, the architecture or an option is
      not supported, or weights and config do not fit each other.
  """
  directory = pathlib.Path(directory).expanduser()
  if not (directory / 'config.json').is_file():
    raise core.UserError(f'{directory}: has no config.json; a Hugging Face '
                         'directory with config.json and model.safetensors is '
                         'needed.')
  if dtype is not None and not jnp.issubdtype(dtype, jnp.floating):
    raise core.UserError(f'dtype of weights must be floating-point or None, '
                         f'got {dtype!r}.')
  config = hf.Config(directory / 'config.json')
  kind = config.choice('model_type', None,
                       [*hf.FAMILIES, *hf_decoder.FAMILIES])
  if kind in hf_decoder.FAMILIES:
    return _decoder(directory, config, kind, dtype)
  return _classifier(directory, config, kind, dtype or jnp.float32)


def _classifier(directory, config, kind, dtype) -> Pretrained:
  architecture, make, sizes, rules = hf.FAMILIES[kind]
  config.get('architectures', [architecture],
             lambda v: v in (None, [architecture]), f'{[architecture]}')
  labels = config.get('id2label', {}, lambda v: isinstance(v, dict),
                      'an object')
  classes = len(labels) or config.size('num_labels', 2)
  processor = directory / 'preprocessor_config.json'
  processor = hf.Config(processor) if processor.is_file() else None
  tensors = checkpoint.open_tensors(directory)
  input_shape, kw = sizes(config, processor, len(tensors))
  mean, std = _moments(processor, input_shape[2])
  build = functools.partial(_build, make, classes, input_shape, kw)
  net, params, stats = _abstract(build, config)
  arrays = _read(tensors, rules, params | stats, directory, dtype)
  return Pretrained(build, net, {k: arrays[k] for k in params},
                    {k: arrays[k] for k in stats}, input_shape, classes, mean,
                    std)


def _decoder(directory, config, kind, dtype) -> Decoder:
  tensors = checkpoint.open_tensors(directory)
  classes, shape, kw = hf_decoder.from_config(config, kind, len(tensors))

  def build():
    model = _build(Decoder, classes, shape, kw)
    model.hf = json.dumps(config.values)
    return model
  net, specs, _ = _abstract(build, config)
  places = {path: hf_names.place(kind, path) for path in specs}
  names = {hf_names.canonical(kind, name): name for name in tensors}
  missing = [path for path in specs if places[path].name not in names]
  used = {place.name for place in places.values()}
  unknown = [name for key, name in names.items()
             if key not in used and not hf_names.is_buffer(key)]
  embed, head = (names.get(hf_names.place(kind, part).name)
                 for part in ('embed/embedding', 'head/kernel'))
  if kw['tied'] and head in unknown and embed:
    if not np.array_equal(tensors[embed].array(),
                          tensors[head].array()):
      raise core.UserError(
          f'{config.path}: tie_word_embeddings is true, but {head} differs '
          f'from {embed}; set it to false to keep both.')
    unknown.remove(head)
  _check_fit(directory, unknown, missing)
  params = {}
  for path, place in places.items():
    params[path] = _array(
        tensors, names[place.name], (1, 0) if place.transposed else None,
        specs[path].shape, path, directory, dtype, place.third)
  return net_lib.call(net, params, {}, lambda model: model)[0]


def _abstract(build, config):
  """`(net, params, stats)`, the arrays as shapes."""
  try:
    net = net_lib.abstract(build)
  except ValueError as e:
    raise core.UserError(f'{config.path}: {e}') from e
  return net, *jax.eval_shape(lambda: net_lib.arrays(net, build()))


def _build(make, classes, input_shape, kw):
  return make(classes, input_shape, rngs=nnx.Rngs(0), **kw)


def _moments(processor, channels):
  """Mean and deviation of pixels in [0, 1] by the image processor."""
  if not processor:
    return None, None
  if not processor.flag('do_normalize', True):
    return (0.0,) * channels, (1.0,) * channels
  # It computes (pixel * factor - mean) / std on pixels up to 255.
  factor = 1.0
  if processor.flag('do_rescale', True):
    factor = processor.number('rescale_factor', 1 / 255, 1e-6, 1e6)
  valid = lambda v: v is None or (
      isinstance(v, list) and len(v) == channels and all(map(hf.is_number, v)))
  allowed = f'{channels} finite numbers'
  mean = processor.get('image_mean', None, valid, allowed)
  std = processor.get('image_std', None, lambda v: valid(v) and (
      v is None or min(v) > 0), allowed + ' above 0')
  scale = lambda v: v and tuple(x / (255 * factor) for x in v)
  return scale(mean), scale(std)


def _read(tensors, rules, specs, directory, dtype) -> net_lib.Arrays:
  """Our path -> array, by `rules`; `specs` has the shapes."""
  sources, unknown = {}, []
  for name in tensors:
    path, axes = _apply(rules, name)
    if path in specs:
      sources[path] = name, axes
    elif path is not None:
      unknown.append(name)
  missing = [path for path in specs if path not in sources]
  _check_fit(directory, unknown, missing)
  arrays = {}
  for path, spec in specs.items():
    name, axes = sources[path]
    arrays[path] = _array(tensors, name, axes, spec.shape, path, directory,
                          dtype)
  return arrays


def _apply(rules, name):
  """`(path, axes)` of a tensor; the path is '' if unknown, None if unused."""
  for pattern, path, axes in rules:
    if match := re.fullmatch(pattern, name):
      return path and match.expand(path), axes
  return '', None


def _check_fit(directory, unknown, missing):
  if unknown or missing:
    raise core.UserError(
        f'{directory}: weights and config.json do not fit. In the weights '
        f'only: {_list(unknown)}. In the model only: {_list(missing)}.')


def _array(tensors, name, axes, shape, path, directory, dtype=None, third=None
          ) -> jax.Array:
  """One parameter of ours.

  Args:
    tensors: of the checkpoint.
    name: of the tensor.
    axes: of the tensor in our order; None: all as they are.
    shape: of the parameter.
    path: of the parameter.
    directory: of the checkpoint.
    dtype: of the parameter; None: that of the tensor.
    third: which third of the last axis it is; None: all of it.
  """
  stored = tensors[name].shape
  if axes and len(axes) == len(stored):
    stored = tuple(stored[axis] for axis in axes)
  if third is not None and stored and stored[-1] % 3 == 0:
    stored = *stored[:-1], stored[-1] // 3
  if stored != shape:
    raise core.UserError(
        f'{directory}: {name} gives {path} the shape {stored}; config.json '
        f'needs {shape}.')
  value = tensors[name].array()
  if third is not None:
    value = np.split(value, 3, -1)[third]
  if not jnp.issubdtype(value.dtype, jnp.floating):
    raise core.UserError(f'{directory}: {name} is {value.dtype}; weights must '
                         'be floating-point.')
  value = value.astype(dtype or value.dtype, copy=False)
  if not np.isfinite(value).all():
    raise core.UserError(f'{directory}: {name} has values that are not finite.')
  return jnp.asarray(value.transpose(axes) if axes else value)


def _list(names) -> str:
  more = len(names) - _SHOWN
  return (', '.join(map(str, names[:_SHOWN])) or 'none') + (
      f' and {more} more' if more > 0 else '')
