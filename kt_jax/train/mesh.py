"""Devices: start-up of several processes, the mesh, and array placement."""
from collections.abc import Callable, Sequence
import re
from typing import Any

import jax
from jax.sharding import AxisType
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec
import numpy as np

from kt_jax import core

Rules = Sequence[tuple[str, Sequence[str | None]]]

HOST = ('ids', 'view')


def initialize(coordinator: str = '', processes: int = 0, process: int = -1):
  """Joins the processes of a run; does nothing for a run of one.

  Args:
    coordinator: `host:port` of process 0; 'auto' asks the cloud environment.
    processes: how many there are; unused with 'auto'.
    process: which one this is; unused with 'auto'.
  """
  if coordinator == 'auto':
    jax.distributed.initialize()
  elif coordinator:
    if processes < 1 or not 0 <= process < processes:
      raise core.UserError(
          '--coordinator needs --processes N and --process I with 0 <= I < N, '
          f'got {processes} and {process}.')
    jax.distributed.initialize(coordinator, processes, process)


def make_mesh(data: int = -1, model: int = 1) -> jax.sharding.Mesh:
  """A `(data, model)` mesh; data=-1 takes all devices that model leaves.

  A run of one process may name fewer; it then has the first ones.
  """
  count = jax.device_count()
  if data == -1 and model > 0 and count % model == 0:
    data = count // model
  wanted = data * model
  if data < 1 or model < 1 or wanted > count or (
      wanted < count and jax.process_count() > 1):
    raise core.UserError(
        f'mesh data={data} x model={model} does not fit {count} device(s); '
        'data=-1 takes what model leaves.')
  return jax.make_mesh((data, model), ('data', 'model'),
                       axis_types=(AxisType.Auto,) * 2,
                       devices=jax.devices()[:wanted])


def shard_state(mesh: jax.sharding.Mesh, rules: Rules, abstract) -> Any:
  """A sharding for every leaf of a state.

  Args:
    mesh: of the run.
    rules: `(regex on the path, axis name or None for each dimension)`; the
      first that matches a leaf of its rank decides. Optimizer state and the
      average of a parameter have its path in theirs. No match: every
      device holds the leaf.
    abstract: pytree with shapes.

  Returns:
    The tree of `NamedSharding`s.
  """
  used = set()
  def leaf(path, x):
    path = core.path_str(path)
    for pattern, axes in rules:
      if re.search(pattern, path) and len(axes) == x.ndim:
        for size, axis in zip(x.shape, axes):
          if axis is not None and axis not in mesh.shape:
            raise core.UserError(core.nearest('mesh axis', axis, mesh.shape))
          if axis is not None and size % mesh.shape[axis]:
            raise core.UserError(
                f'sharding rule {pattern!r}: a dimension of {path} {x.shape} '
                f'is not divisible by {axis!r} ({mesh.shape[axis]}).')
        used.add((pattern, tuple(axes)))
        return NamedSharding(mesh, PartitionSpec(*axes))
    return NamedSharding(mesh, PartitionSpec())
  shardings = jax.tree_util.tree_map_with_path(leaf, abstract)
  for pattern, axes in rules:
    if (pattern, tuple(axes)) not in used:
      raise core.UserError(
          f'sharding rule {pattern!r} with {len(axes)} axes matches nothing '
          'that an earlier rule leaves.')
  return shardings


def rows(mesh: jax.sharding.Mesh, batch_size: int) -> slice:
  """The rows of the global batch that this process loads."""
  if batch_size % mesh.shape['data']:
    raise core.UserError(
        f'batch_size {batch_size} is not divisible by the {mesh.shape["data"]} '
        'devices of the data axis.')
  where = NamedSharding(mesh, PartitionSpec('data'))
  spans = [index[0].indices(batch_size)[:2] for index in
           where.addressable_devices_indices_map((batch_size,)).values()
           if index is not None]
  first, last = min(s for s, _ in spans), max(e for _, e in spans)
  if sum(e - s for s, e in set(spans)) != last - first:
    raise core.UserError('The devices of this process hold rows of the batch '
                         'that are not one slice; order the mesh by process.')
  return slice(first, last)


def make_shard_batch(mesh: jax.sharding.Mesh) -> Callable[[Any], Any]:
  """`shard_batch`: host rows of this process -> global arrays on the mesh.

  Arrays for look-ups on the host (`HOST`) are left out.
  """
  sharding = NamedSharding(mesh, PartitionSpec('data'))
  def shard_batch(batch):
    if isinstance(batch, dict):
      batch = {k: v for k, v in batch.items() if k not in HOST}
    if jax.process_count() == 1:
      return jax.device_put(batch, sharding)
    return jax.tree.map(
        lambda x: jax.make_array_from_process_local_data(
            sharding, np.asarray(x)), batch)
  return shard_batch
