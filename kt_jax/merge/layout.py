"""Where the values of an operator lie on a mesh with explicit axes."""
import jax
from jax.sharding import AxisType
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec


def gather(x: jax.Array) -> jax.Array:
  """`x` whole on every device, for what runs on one (decompositions).

  On a mesh with automatic axes that is the compiler's to do.
  """
  mesh = jax.typeof(x).sharding.mesh
  if AxisType.Explicit not in mesh.axis_types:
    return x
  return jax.sharding.reshard(x, NamedSharding(mesh, PartitionSpec()))


def spread(x: jax.Array, like: jax.Array) -> jax.Array:
  """`x [T, ...]` cut up as `like [...]` is."""
  sharding = jax.typeof(like).sharding
  if AxisType.Explicit not in sharding.mesh.axis_types:
    return x
  return jax.sharding.reshard(x, NamedSharding(
      sharding.mesh, PartitionSpec(None, *sharding.spec)))
