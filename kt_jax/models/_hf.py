"""Configs and parameter names of Hugging Face's image classifiers."""
from typing import Any

from kt_jax import core
from kt_jax.checkpoint import safetensors
from kt_jax.models import resnet
from kt_jax.models import vit

_LARGEST = 2 ** 16  # of any size in a config, which may be hostile


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


class Config:
  """A JSON file with a check of every value that is read."""

  def __init__(self, path, values=None):
    self.path = path
    self.values = safetensors.read_object(path) if values is None else values

  def get(self, key, default, valid, allowed: str) -> Any:
    value = self.values.get(key, default)
    if not valid(value):
      raise core.UserError(
          f'{self.path}: {key} must be {allowed}, got {value!r}.')
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
                    lambda v: is_number(v) and least <= v <= most,
                    f'a number from {least} to {most}')

  def choice(self, key, default, choices) -> str:
    value = self.values.get(key, default)
    if value not in choices:
      raise core.UserError(f'{self.path}: '
                           + core.nearest(key, value, choices))
    return value


def _is_size(value, most) -> bool:
  return type(value) is int and 1 <= value <= most  # a bool is not a size


def is_number(value) -> bool:
  return type(value) in (int, float) and abs(value) <= 1e9  # NaN is not


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
FAMILIES = {
    'resnet': ('ResNetForImageClassification', resnet.ResNet, _resnet, _RESNET),
    'vit': ('ViTForImageClassification', vit.Vit, _vit, _VIT),
}
