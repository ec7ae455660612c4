"""Models by name, and a model as a pure function of dicts of arrays."""
import functools
import sys

from flax import nnx

from kt_jax import core
from kt_jax.models.mlp import mlp as mlp
from kt_jax.models.net import abstract as abstract
from kt_jax.models.net import apply as apply
from kt_jax.models.net import init as init
from kt_jax.models.net import Net as Net
from kt_jax.models.net import Output as Output
from kt_jax.models.net import split as split
from kt_jax.models.net import taps as taps


def builder(name, *, classes, input_shape, seed=0, **kw):
  """`build()` for `init` and `abstract`: the model `name`, seeded."""
  make = core.resolve(
      sys.modules[__name__], name, 'model', takes='input_shape')
  return functools.partial(_build, make, classes, input_shape, seed, kw)


def _build(make, classes, input_shape, seed, kw):
  return make(classes, input_shape, rngs=nnx.Rngs(seed), **kw)
