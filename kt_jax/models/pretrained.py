"""Hugging Face image classifiers read into our networks.

The names of a checkpoint become paths of ours by a table of rules; what a rule
does not know, or what no name fills, is an error and not a guess.
"""
from collections.abc import Callable
import functools
import math
import pathlib
import re
from typing import Any, NamedTuple

from flax import nnx
import jax
from jax import numpy as jnp
import numpy as np

from kt_jax import core
from kt_jax.checkpoint import safetensors
from kt_jax.models import net as net_lib
from kt_jax.models import resnet
from kt_jax.models import vit

_LARGEST = 2 ** 16  # of any size in a config; a hostile one stops here
_SHOWN = 8  # names in an error message


class Pretrained(NamedTuple):
  build: Callable[[], nnx.Module]  # makes the network, with fresh weights
  net: net_lib.Net
  params: net_lib.Arrays  # float32
  stats: net_lib.Arrays
  input_shape: tuple[int, int, int]  # (H, W, C)
  classes: int
  mean: tuple[float, ...] | None  # per channel of pixels in [0, 1]; None: unsaid
  std: tuple[float, ...] | None


def _rules(prefixes, leaves):
  return tuple((old + tail, None if leaf is None else new + leaf, axes)
               for old, new in prefixes for tail, leaf, axes in leaves)


# Name in the file (a regex), path of ours (None: not needed), axes of theirs in
# our order. torch has OIHW kernels and (out, in) matrices.
_KEEP, _LINEAR, _CONV = None, (1, 0), (2, 3, 1, 0)
_RESNET = _rules(
    ((r'resnet\.embedder\.embedder\.', r'stem/unit/'),
     (r'resnet\.encoder\.stages\.(\d+)\.layers\.(\d+)\.layer\.(\d+)\.',
      r'stages/\1/blocks/\2/units/\3/'),
     (r'resnet\.encoder\.stages\.(\d+)\.layers\.(\d+)\.shortcut\.',
      r'stages/\1/blocks/\2/shortcut/')),
    ((r'convolution\.weight', 'conv/kernel', _CONV),
     (r'normalization\.weight', 'norm/scale', _KEEP),
     (r'normalization\.bias', 'norm/bias', _KEEP),
     (r'normalization\.running_mean', 'norm/mean', _KEEP),
     (r'normalization\.running_var', 'norm/var', _KEEP),
     (r'normalization\.num_batches_tracked', None, _KEEP)),
) + (
    (r'classifier\.1\.weight', 'head/kernel', _LINEAR),
    (r'classifier\.1\.bias', 'head/bias', _KEEP),
)
_DENSE = ((r'\.weight', '/kernel', _LINEAR), (r'\.bias', '/bias', _KEEP))
_NORM = ((r'\.weight', '/scale', _KEEP), (r'\.bias', '/bias', _KEEP))
_LAYER = r'vit\.encoder\.layer\.(\d+)\.'
_VIT = _rules(
    ((_LAYER + r'attention\.attention\.(query|key|value)',
      r'blocks/\1/attention/\2'),
     (_LAYER + r'attention\.output\.dense', r'blocks/\1/attention/out'),
     (_LAYER + r'intermediate\.dense', r'blocks/\1/fc1'),
     (_LAYER + r'output\.dense', r'blocks/\1/fc2'),
     (r'classifier', 'head')), _DENSE,
) + _rules(
    ((_LAYER + r'layernorm_before', r'blocks/\1/norm1'),
     (_LAYER + r'layernorm_after', r'blocks/\1/norm2'),
     (r'vit\.layernorm', 'norm')), _NORM,
) + (
    (r'vit\.embeddings\.cls_token', 'stem/token', _KEEP),
    (r'vit\.embeddings\.position_embeddings', 'stem/position', _KEEP),
    (r'vit\.embeddings\.patch_embeddings\.projection\.weight',
     'stem/patches/conv/kernel', _CONV),
    (r'vit\.embeddings\.patch_embeddings\.projection\.bias',
     'stem/patches/conv/bias', _KEEP),
)


class _Config:
  """A JSON file whose every value is checked before it is used."""

  def __init__(self, path):
    self.path, self.values = path, safetensors.read_object(path)

  def get(self, key, default, valid, want) -> Any:
    value = self.values.get(key, default)
    if not valid(value):
      raise core.UserError(f'{self.path}: {key} must be {want}, got {value!r}.')
    return value

  def size(self, key, default, most=_LARGEST) -> int:
    return self.get(key, default, lambda v: _is_size(v, most),
                    f'a whole number from 1 to {most}')

  def sizes(self, key, default, most=_LARGEST) -> tuple[int, ...]:
    return tuple(self.get(
        key, default, lambda v: isinstance(v, (list, tuple)) and v
        and all(_is_size(x, most) for x in v),
        f'a list of whole numbers from 1 to {most}'))

  def pair(self, key, default) -> tuple[int, int]:
    """`(height, width)`, also from one number or an image processor's dict."""
    value = self.values.get(key, default)
    if isinstance(value, dict):
      edge = value.get('shortest_edge')
      value = [value.get('height', edge), value.get('width', edge)]
    value = value if isinstance(value, (list, tuple)) else [value] * 2
    if len(value) != 2 or not all(_is_size(v, _LARGEST) for v in value):
      raise core.UserError(f'{self.path}: {key} must be one or two whole '
                           f'numbers from 1 to {_LARGEST}, got '
                           f'{self.values.get(key, default)!r}.')
    return tuple(value)

  def flag(self, key, default) -> bool:
    return self.get(key, default, lambda v: isinstance(v, bool),
                    'true or false')

  def number(self, key, default, least, most) -> float:
    return self.get(key, default,
                    lambda v: _is_number(v) and least <= v <= most,
                    f'a number from {least} to {most}')

  def choice(self, key, default, choices) -> str:
    value = self.values.get(key, default)
    if value not in choices:
      raise core.UserError(f'{self.path}: '
                           + core.nearest(key, value, choices))
    return value


def _is_size(value, most) -> bool:
  return type(value) is int and 1 <= value <= most  # a bool is no size


def _is_number(value) -> bool:
  return type(value) in (int, float) and math.isfinite(value)


def _resnet(config, processor, layers):
  """`(input_shape, keywords)` of a ResNet; `layers` bounds the depths."""
  config.choice('hidden_act', 'relu', ('relu',))
  height, width = 224, 224
  if processor:
    crop = 'crop_size' if processor.values.get('crop_size') else 'size'
    height, width = processor.pair(crop, 224)
  return (height, width, config.size('num_channels', 3)), {
      'depths': config.sizes('depths', (3, 4, 6, 3), layers),
      'widths': config.sizes('hidden_sizes', (256, 512, 1024, 2048)),
      'kind': config.choice(
          'layer_type', 'bottleneck', ('basic', 'bottleneck')),
      'stem': config.size('embedding_size', 64),
      'stride_first': config.flag('downsample_in_bottleneck', False),
      'first_stride': 1 + config.flag('downsample_in_first_stage', False)}


def _vit(config, processor, layers):
  del processor  # positions fix the size
  config.choice('hidden_act', 'gelu', ('gelu',))
  shape = (*config.pair('image_size', 224), config.size('num_channels', 3))
  return shape, {
      'patch': config.pair('patch_size', 16),
      'depth': config.size('num_hidden_layers', 12, layers),
      'width': config.size('hidden_size', 768),
      'heads': config.size('num_attention_heads', 12),
      'hidden': config.size('intermediate_size', 3072),
      'qkv_bias': config.flag('qkv_bias', True),
      'eps': config.number('layer_norm_eps', 1e-12, 0, 1),
      'dropout': config.number('hidden_dropout_prob', 0.0, 0, 1),
      'attention_dropout': config.number(
          'attention_probs_dropout_prob', 0.0, 0, 1)}


# model_type -> architecture, our class, its sizes, its rules.
_FAMILIES = {
    'resnet': ('ResNetForImageClassification', resnet.ResNet, _resnet, _RESNET),
    'vit': ('ViTForImageClassification', vit.Vit, _vit, _VIT),
}


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
  config = _Config(directory / 'config.json')
  known = {family[0]: kind for kind, family in _FAMILIES.items()}
  kind = config.choice('model_type', None, list(_FAMILIES))
  architecture, make, sizes, rules = _FAMILIES[kind]
  names = config.values.get('architectures') or [architecture]
  if names != [architecture]:
    name = names[0] if isinstance(names, list) else names
    raise core.UserError(f'{config.path}: '
                         + core.nearest('architecture', name, known))
  labels = config.get('id2label', {}, lambda v: isinstance(v, dict),
                      'an object')
  classes = len(labels) or config.size('num_labels', 2)
  processor = directory / 'preprocessor_config.json'
  processor = _Config(processor) if processor.is_file() else None
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
      isinstance(v, list) and len(v) == channels and all(map(_is_number, v)))
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
