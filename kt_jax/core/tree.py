"""Paths of the leaves of a pytree, and random keys derived from them."""
from typing import Any
import zlib

import jax


def path_str(path) -> str:
  """`(DictKey('a'), SequenceKey(0))` as `'a/0'`."""
  return jax.tree_util.keystr(path, simple=True, separator='/')


def flatten(tree) -> dict[str, Any]:
  """Path -> leaf, in the order of `jax.tree.leaves`."""
  leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
  return {path_str(path): leaf for path, leaf in leaves}


def fold_path(key: jax.Array, path: str) -> jax.Array:
  """A key for the leaf at `path`, the same in any order, device or process."""
  return jax.random.fold_in(key, zlib.crc32(path.encode()))
