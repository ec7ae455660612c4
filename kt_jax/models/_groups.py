"""The axes of a network, collected layer by layer for `permutations`."""
from typing import NamedTuple


class Fixed(NamedTuple):
  """An axis that stays as it is, and the reason."""
  why: str


class Group:
  """Units that are permuted together, each of `block` entries."""

  def __init__(self, name: str, block: int = 1):
    self.name, self.block = name, block


PIXELS = Fixed('the image: its pixels or channels have an order')
CLASSES = Fixed('the classes have an order')
WINDOW = Fixed('places under the kernel')
TOKENS = Fixed('tokens are places in the image: the stem, which has no weight '
               'of their order, makes them')
KNOWLEDGE = Fixed('knowledge tokens are a set: their order is free, but no '
                  'unit of the network has it')
ONE = Fixed('of size 1')
INSIDE = ('inside of a head: any invertible matrix would do there, not only a '
          'permutation; whole heads are permuted')


class Builder:
  """Collects the axes of each leaf."""

  def __init__(self):
    self.axes = {}

  def leaf(self, path, *axes):
    self.axes[path] = axes

  def linear(self, path, module, inputs, outputs):
    self.leaf(f'{path}/kernel', inputs, outputs)
    if module.bias is not None:
      self.leaf(f'{path}/bias', outputs)

  def conv(self, path, module, inputs, outputs):
    window = (WINDOW,) * len(module.kernel_size)
    self.leaf(f'{path}/kernel', *window, inputs, outputs)
    if module.bias is not None:
      self.leaf(f'{path}/bias', outputs)

  def norm(self, path, module, units):
    for name in ('scale', 'bias', 'mean', 'var'):
      if getattr(module, name, None) is not None:
        self.leaf(f'{path}/{name}', units)

  def conv_norm(self, path, unit, inputs, outputs):
    self.conv(f'{path}/conv', unit.conv, inputs, outputs)
    self.norm(f'{path}/norm', unit.norm, outputs)

  def chain(self, path, unit, inputs):
    """A ConvNorm with a new group of outputs."""
    outputs = Group(path)
    self.conv_norm(path, unit, inputs, outputs)
    return outputs

  def residual(self, path, units, shortcut, stream):
    """A block of ConvNorms `(name, unit)`, added to the stream."""
    inputs = stream
    for name, unit in units[:-1]:
      inputs = self.chain(f'{path}/{name}', unit, inputs)
    outputs = stream if shortcut is None else Group(path)
    name, unit = units[-1]
    self.conv_norm(f'{path}/{name}', unit, inputs, outputs)
    if shortcut is not None:
      self.conv_norm(f'{path}/shortcut', shortcut, stream, outputs)
    outputs.name = path
    return outputs
