"""Concatenation of data sets."""
import numpy as np

from kt_jax.core import UserError
from kt_jax.data.arrays import crc_of_each
from kt_jax.data.arrays import Decoded
from kt_jax.data.arrays import Source
from kt_jax.data.load import abstract
from kt_jax.data.load import load


def union(config, *, parts=()) -> Source:
  """The `train` and `test` splits of several data sets, each concatenated.

  Parts are specs or configs of `load`; their validation splits are left out. As
  data.name: 'kt_jax.data:union' with data.kw: `dict(parts=...)`. For one model
  of several tasks.
  """
  del config
  if not parts:
    raise UserError('data.kw.parts must be at least one data config.')
  infos = [abstract(part) for part in parts]
  for info in infos:
    if (info.class_names, info.input_shape) != (
        infos[0].class_names, infos[0].input_shape):
      raise UserError(
          f'data.kw.parts: {info.name} has {info.classes} classes and images '
          f'{info.input_shape}, {infos[0].name} {infos[0].classes} and '
          f'{infos[0].input_shape}: they must be the same.')
  splits = {split: sum(info.sizes[split] for info in infos)
            for split in ('train', 'test')}

  def read(pieces, size):
    if size:
      raise UserError('data.size is a setting of the parts of a union.')
    loaded = [load(part) for part in parts]

    def joined(split):
      arrays = [getattr(x, split) for x in loaded]
      images = np.concatenate([np.asarray(x.images) for x in arrays])
      return Decoded(images, np.concatenate([x.labels for x in arrays]),
                     crc_of_each(images))
    decoded = {split: joined(split) for split in {p[0] for p in pieces}}
    return Decoded(*(np.concatenate([decoded[name][i][a:b]
                                     for name, a, b in pieces])
                     for i in range(3)))
  return Source('union', infos[0].class_names, infos[0].input_shape, splits,
                read, infos[0].mean, infos[0].std)
