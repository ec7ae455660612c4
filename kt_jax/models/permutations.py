"""Permutation symmetries of the networks of this package, for `align`.

A group is a set of units (channels, hidden units, heads) that may be permuted
in every leaf at once without changing the network. It has the name of the tap
with these units on its last axis, so that activations can be matched; a
residual stream is one group, with the name of its last sum or activation.
"""
from collections.abc import Callable

from flax import nnx
import jax
from jax import numpy as jnp

from kt_jax import core
from kt_jax.models import _groups as groups
from kt_jax.models import net as net_lib
from kt_jax.models.convnet import ConvNet
from kt_jax.models.mixer import Mixer
from kt_jax.models.mlp import Mlp
from kt_jax.models.mobilenet_v2 import MobileNetV2
from kt_jax.models.residual_mlp import ResidualMlp
from kt_jax.models.resnet import ResNet
from kt_jax.models.resnet_cifar import ResNetCifar
from kt_jax.models.vgg import Vgg
from kt_jax.models.vit import Vit
from kt_jax.models.wrn import Wrn

# An axis: None, a group, or row-major factors such as ('a group', 64).
Axis = None | str | tuple[str | int, ...]
Spec = dict[str, tuple[Axis, ...]]


def permutation_spec(net: net_lib.Net) -> Spec:
  """The groups of a network of this package, for `align`.

  Whole heads of an attention are permuted, `(heads, width of a head)`;
  `fixed_axes` lists the axes without a group. Activations inside of a Mixer's
  token MLP, `[B, width, hidden]`, have the stream on the axis before: permute
  that first to match them.

  Args:
    net: from `split`, `init` or `abstract`.

  Returns:
    Path of every parameter and statistic -> one entry for each axis: None, the
    name of a group, or `(group, n)`: its units are blocks of n. In the order of
    the forward pass.

  Raises:
    UserError: not a network of this package; write the spec by hand.

  References: ainsworth2022rebasin, Sec. 3.
  """
  return _trace(net)[0]


def fixed_axes(net: net_lib.Net) -> dict[tuple[str, int], str]:
  """`(path, axis)` without a group in `permutation_spec` -> the reason."""
  return _trace(net)[1]


def _mlp(to, model):
  units = groups.PIXELS
  for i, block in enumerate(model.blocks):
    inputs, units = units, groups.Group(f'blocks/{i}')
    to.linear(f'blocks/{i}/linear', block.linear, inputs, units)
  to.linear('head', model.head, units, groups.CLASSES)


def _residual_mlp(to, model):
  stream = groups.Group('stem')
  to.linear('stem', model.stem, groups.PIXELS, stream)
  for i, block in enumerate(model.blocks):
    path = f'blocks/{i}'
    hidden = groups.Group(f'{path}/up')
    to.norm(f'{path}/norm', block.norm, stream)
    to.linear(f'{path}/up', block.up, stream, hidden)
    to.linear(f'{path}/down', block.down, hidden, stream)
    stream.name = path
  to.norm('norm', model.norm, stream)
  to.linear('head', model.head, stream, groups.CLASSES)


def _convnet(to, model):
  units = groups.PIXELS
  for i, block in enumerate(model.blocks):
    units = to.chain(f'blocks/{i}', block, units)
  to.linear('head', model.head, units, groups.CLASSES)


def _vgg(to, model):
  units = groups.PIXELS
  for i, stage in enumerate(model.stages):
    for j, block in enumerate(stage.blocks):
      units = to.chain(f'stages/{i}/blocks/{j}', block, units)
  to.linear('head', model.head, units, groups.CLASSES)


def _blocks(model):
  for i, stage in enumerate(model.stages):
    for j, block in enumerate(stage.blocks):
      yield f'stages/{i}/blocks/{j}', block


def _resnet_cifar(to, model):
  stream = to.chain('stem', model.stem, groups.PIXELS)
  for path, block in _blocks(model):
    units = [('conv1', block.conv1), ('conv2', block.conv2)]
    stream = to.residual(path, units, block.shortcut, stream)
  to.linear('head', model.head, stream, groups.CLASSES)


def _resnet(to, model):
  stream = to.chain('stem/unit', model.stem.unit, groups.PIXELS)
  stream.name = 'stem'
  for path, block in _blocks(model):
    units = [(f'units/{k}', unit) for k, unit in enumerate(block.units)]
    stream = to.residual(path, units, block.shortcut, stream)
  to.linear('head', model.head, stream, groups.CLASSES)


def _wrn(to, model):
  stream = groups.Group('stem')
  to.conv('stem', model.stem, groups.PIXELS, stream)
  for path, block in _blocks(model):
    inner = groups.Group(f'{path}/act2')
    outputs = stream if block.shortcut is None else groups.Group(path)
    to.norm(f'{path}/norm1', block.norm1, stream)
    to.conv(f'{path}/conv1', block.conv1, stream, inner)
    to.norm(f'{path}/norm2', block.norm2, inner)
    to.conv(f'{path}/conv2', block.conv2, inner, outputs)
    if block.shortcut is not None:
      to.conv(f'{path}/shortcut', block.shortcut, stream, outputs)
    stream, outputs.name = outputs, path
  to.norm('norm', model.norm, stream)
  to.linear('head', model.head, stream, groups.CLASSES)


def _mobilenet_v2(to, model):
  stream = to.chain('stem', model.stem, groups.PIXELS)
  for path, block in _blocks(model):
    units, last = stream, len(block.units) - 1
    for k, unit in enumerate(block.units):
      at = f'{path}/units/{k}'
      if unit.conv.feature_group_count > 1:  # depthwise: each channel by itself
        to.conv(f'{at}/conv', unit.conv, groups.ONE, units)
        to.norm(f'{at}/norm', unit.norm, units)
      elif k == last and block.add is not None:
        to.conv_norm(at, unit, units, stream)
        stream.name, units = path, stream
      else:
        units = to.chain(at, unit, units)
    stream = units
  stream = to.chain('last', model.last, stream)
  to.linear('head', model.head, stream, groups.CLASSES)


def _vit(to, model):
  stream = groups.Group('stem')
  to.conv('stem/patches/conv', model.stem.patches.conv, groups.PIXELS, stream)
  to.leaf('stem/token', groups.ONE, groups.ONE, stream)
  to.leaf('stem/position', groups.ONE, groups.TOKENS, stream)
  if model.knowledge_token is not None:
    to.leaf('knowledge_token', groups.ONE, groups.KNOWLEDGE, stream)
  for i, block in enumerate(model.blocks):
    path, attention = f'blocks/{i}', block.attention
    to.norm(f'{path}/norm1', block.norm1, stream)
    width = attention.query.out_features
    heads = groups.Group(f'{path}/attention/context', width // attention.heads)
    for name in ('query', 'key', 'value'):
      to.linear(f'{path}/attention/{name}', getattr(attention, name), stream,
                heads)
    to.linear(f'{path}/attention/out', attention.out, heads, stream)
    to.norm(f'{path}/norm2', block.norm2, stream)
    hidden = groups.Group(f'{path}/act')
    to.linear(f'{path}/fc1', block.fc1, stream, hidden)
    to.linear(f'{path}/fc2', block.fc2, hidden, stream)
    stream.name = path
  to.norm('norm', model.norm, stream)
  to.linear('head', model.head, stream, groups.CLASSES)


def _mixer(to, model):
  stream = groups.Group('stem')
  to.conv('stem/conv', model.stem.conv, groups.PIXELS, stream)
  for i, block in enumerate(model.blocks):
    path = f'blocks/{i}'
    for norm, mlp_, name, ends in (
        ('norm1', block.token_mlp, 'token_mlp', groups.TOKENS),
        ('norm2', block.channel_mlp, 'channel_mlp', stream)):
      to.norm(f'{path}/{norm}', getattr(block, norm), stream)
      hidden = groups.Group(f'{path}/{name}/act')
      to.linear(f'{path}/{name}/fc1', mlp_.fc1, ends, hidden)
      to.linear(f'{path}/{name}/fc2', mlp_.fc2, hidden, ends)
    stream.name = path
  to.norm('norm', model.norm, stream)
  to.linear('head', model.head, stream, groups.CLASSES)


_FAMILIES: dict[type, Callable] = {
    Mlp: _mlp, ResidualMlp: _residual_mlp, ConvNet: _convnet, Vgg: _vgg,
    ResNetCifar: _resnet_cifar, ResNet: _resnet, Wrn: _wrn,
    MobileNetV2: _mobilenet_v2, Vit: _vit, Mixer: _mixer}


def _trace(net: net_lib.Net):
  """`(spec, fixed)` by walking the modules, which hold no arrays here."""
  blank = [jax.ShapeDtypeStruct((), jnp.float32)] * len(net.names)
  model = nnx.merge(net.eval, jax.tree.unflatten(net.treedef, blank))
  if type(model) not in _FAMILIES:
    families = ', '.join(cls.__name__ for cls in _FAMILIES)
    raise core.UserError(
        f'permutation_spec: knows {families}, not {type(model).__name__}; '
        'write its spec by hand, a dict path -> names of its axes.')
  to = groups.Builder()
  _FAMILIES[type(model)](to, model)
  leaves = [name for name, kind in zip(net.names, net.kinds)
            if kind in ('param', 'stat')]
  assert set(leaves) == set(to.axes), set(leaves) ^ set(to.axes)
  spec, fixed = {}, {}
  for path, axes in to.axes.items():
    entries = []
    for number, axis in enumerate(axes):
      if isinstance(axis, groups.Fixed):
        fixed[path, number] = axis.why
        entries.append(None)
      elif axis.block == 1:
        entries.append(axis.name)
      else:
        fixed[path, number] = groups.INSIDE
        entries.append((axis.name, axis.block))
    spec[path] = tuple(entries)
  return spec, fixed
