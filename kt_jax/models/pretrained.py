"""Hugging Face image classifiers read into our networks.

The names of a checkpoint become paths of ours by a table of rules; what a rule
does not know, or what no name fills, is an error and not a guess.
"""
from collections.abc import Callable
import functools
import pathlib
import re
from typing import NamedTuple

from flax import nnx
import jax
from jax import numpy as jnp
import numpy as np

from kt_jax import core
from kt_jax.checkpoint import safetensors
from kt_jax.models import hf
from kt_jax.models import net as net_lib

_SHOWN = 8  # names in an error message


class Pretrained(NamedTuple):
  build: Callable[[], nnx.Module]  # makes the network, with fresh weights
  net: net_lib.Net
  params: net_lib.Arrays  # float32
  stats: net_lib.Arrays
  input_shape: tuple[int, int, int]  # (H, W, C)
  classes: int
  mean: tuple[float, ...] | None  # per channel, pixels in [0, 1]; None: unsaid
  std: tuple[float, ...] | None


def from_pretrained(directory) -> Pretrained:
  """Reads a ResNet or ViT image classifier that Hugging Face saved.

  Args:
    directory: has `config.json`, `model.safetensors` or a sharded
      `model.safetensors.index.json`, and perhaps `preprocessor_config.json`.

  Returns:
    `Pretrained`: the network, its arrays, and what its inputs should be.

  Raises:
    UserError: a file is missing or damaged, the architecture or an option is
      not one of ours, or weights and config do not fit each other.
  """
  directory = pathlib.Path(directory).expanduser()
  if not (directory / 'config.json').is_file():
    raise core.UserError(f'{directory}: has no config.json; a Hugging Face '
                         'directory with config.json and model.safetensors is '
                         'needed.')
  config = hf.Config(directory / 'config.json')
  kind = config.choice('model_type', None, list(hf.FAMILIES))
  architecture, make, sizes, rules = hf.FAMILIES[kind]
  config.get('architectures', [architecture],
             lambda v: v in (None, [architecture]), [architecture])
  labels = config.get('id2label', {}, lambda v: isinstance(v, dict),
                      'an object')
  classes = len(labels) or config.size('num_labels', 2)
  processor = directory / 'preprocessor_config.json'
  processor = hf.Config(processor) if processor.is_file() else None
  tensors = safetensors.open_safetensors(directory)
  input_shape, kw = sizes(config, processor, len(tensors))
  mean, std = _moments(processor, input_shape[2])
  build = functools.partial(_build, make, classes, input_shape, kw)
  try:
    net = net_lib.abstract(build)
  except ValueError as e:
    raise core.UserError(f'{config.path}: {e}') from e
  params, stats = jax.eval_shape(lambda: net_lib.init(build)[1:])
  arrays = _read(tensors, rules, params | stats, directory)
  return Pretrained(build, net, {k: arrays[k] for k in params},
                    {k: arrays[k] for k in stats}, input_shape, classes, mean,
                    std)


def _build(make, classes, input_shape, kw):
  return make(classes, input_shape, rngs=nnx.Rngs(0), **kw)


def _moments(processor, channels):
  """Mean and deviation of pixels in [0, 1], as the image processor has them."""
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
  want = f'{channels} finite numbers'
  mean = processor.get('image_mean', None, valid, want)
  std = processor.get('image_std', None, lambda v: valid(v) and (
      v is None or min(v) > 0), want + ' above 0')
  scale = lambda v: v and tuple(x / (255 * factor) for x in v)
  return scale(mean), scale(std)


def _read(tensors, rules, wanted, directory) -> net_lib.Arrays:
  """Our path -> array, by `rules`; `wanted` has the shapes."""
  sources, unknown = {}, []
  for name in tensors:
    matches = ((re.fullmatch(pattern, name), path, axes)
               for pattern, path, axes in rules)
    match, path, axes = next((m for m in matches if m[0]), (None, '', None))
    path = path and match.expand(path)
    if path in wanted:
      sources[path] = name, axes
    elif path is not None:
      unknown.append(name)
  lacking = [path for path in wanted if path not in sources]
  if unknown or lacking:
    raise core.UserError(
        f'{directory}: weights and config.json do not fit. In the weights '
        f'only: {_list(unknown)}. In the model only: {_list(lacking)}.')
  return {path: _array(tensors, *sources[path], wanted[path].shape, path,
                       directory) for path in wanted}


def _array(tensors, name, axes, shape, path, directory) -> jax.Array:
  got = tensors.shape(name)
  if axes and len(axes) == len(got):
    got = tuple(got[axis] for axis in axes)
  if got != shape:
    raise core.UserError(
        f'{directory}: {name} gives {path} the shape {got}; config.json asks '
        f'for {shape}.')
  value = tensors[name]
  if not jnp.issubdtype(value.dtype, jnp.floating):
    raise core.UserError(f'{directory}: {name} is {value.dtype}; weights must '
                         'be floating-point.')
  value = value.astype(np.float32)
  if not np.isfinite(value).all():
    raise core.UserError(f'{directory}: {name} has values that are not finite.')
  return jnp.asarray(value.transpose(axes) if axes else value)


def _list(names) -> str:
  more = len(names) - _SHOWN
  return (', '.join(map(str, names[:_SHOWN])) or 'none') + (
      f' and {more} more' if more > 0 else '')
