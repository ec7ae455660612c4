"""Placement of the arrays of an operator on a mesh with explicit axes."""
import jax
from jax.sharding import AxisType
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec


def replicate(x: jax.Array) -> jax.Array:
  """`x` replicated, for decompositions, which do not run on shards.

  On a mesh with automatic axes the compiler does that.
  """
  mesh = jax.typeof(x).sharding.mesh
  if AxisType.Explicit not in mesh.axis_types:
    return x
  return jax.sharding.reshard(x, NamedSharding(mesh, PartitionSpec()))


def shard_like(x: jax.Array, like: jax.Array) -> jax.Array:
  """`x [T, ...]` sharded as `like [...]` is."""
  sharding = jax.typeof(like).sharding
  if AxisType.Explicit not in sharding.mesh.axis_types:
    return x
  return jax.sharding.reshard(x, NamedSharding(
      sharding.mesh, PartitionSpec(None, *sharding.spec)))
