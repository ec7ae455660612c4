"""Models by name, and a model as a pure function of dicts of arrays."""
import functools
import inspect
import sys
import typing

from flax import nnx

from kt_jax import core
from kt_jax.models.convnet import convnet as convnet
from kt_jax.models.decoder import Cache as Cache
from kt_jax.models.decoder import Decoder as Decoder
from kt_jax.models.decoder import decoder as decoder
from kt_jax.models.decoder_settings import decoder_settings as decoder_settings
from kt_jax.models.generate import DecodeModel as DecodeModel
from kt_jax.models.generate import filter_top_k_top_p as filter_top_k_top_p
from kt_jax.models.generate import generate as generate
from kt_jax.models.generate import Generated as Generated
from kt_jax.models.generate import sample_token as sample_token
from kt_jax.models.generate import SampleFn as SampleFn
from kt_jax.models.generate import sampler as sampler
from kt_jax.models.intercept import intercept as intercept
from kt_jax.models.linear_inputs import linear_inputs as linear_inputs
from kt_jax.models.mixer import mixer_base as mixer_base
from kt_jax.models.mixer import mixer_small as mixer_small
from kt_jax.models.mlp import mlp as mlp
from kt_jax.models.mobilenet_v2 import mobilenet_v2 as mobilenet_v2
from kt_jax.models.mobilenet_v2 import mobilenet_v2_half as mobilenet_v2_half
from kt_jax.models.net import abstract as abstract
from kt_jax.models.net import apply as apply
from kt_jax.models.net import Arrays as Arrays
from kt_jax.models.net import arrays as arrays
from kt_jax.models.net import call as call
from kt_jax.models.net import init as init
from kt_jax.models.net import join as join
from kt_jax.models.net import Net as Net
from kt_jax.models.net import Output as Output
from kt_jax.models.net import split as split
from kt_jax.models.net import taps as taps
from kt_jax.models.permutations import fixed_axes as fixed_axes
from kt_jax.models.permutations import permutation_spec as permutation_spec
from kt_jax.models.pretrained import from_pretrained as from_pretrained
from kt_jax.models.pretrained import Pretrained as Pretrained
from kt_jax.models.reestimate_statistics import (
  reestimate_statistics as reestimate_statistics,
)
from kt_jax.models.residual_mlp import residual_mlp as residual_mlp
from kt_jax.models.resnet import resnet18 as resnet18
from kt_jax.models.resnet import resnet34 as resnet34
from kt_jax.models.resnet import resnet50 as resnet50
from kt_jax.models.resnet_cifar import resnet8 as resnet8
from kt_jax.models.resnet_cifar import resnet8x4 as resnet8x4
from kt_jax.models.resnet_cifar import resnet14 as resnet14
from kt_jax.models.resnet_cifar import resnet20 as resnet20
from kt_jax.models.resnet_cifar import resnet32 as resnet32
from kt_jax.models.resnet_cifar import resnet32x4 as resnet32x4
from kt_jax.models.resnet_cifar import resnet44 as resnet44
from kt_jax.models.resnet_cifar import resnet56 as resnet56
from kt_jax.models.resnet_cifar import resnet110 as resnet110
from kt_jax.models.save_pretrained import folded as folded
from kt_jax.models.save_pretrained import save_pretrained as save_pretrained
from kt_jax.models.vgg import vgg8 as vgg8
from kt_jax.models.vgg import vgg11 as vgg11
from kt_jax.models.vgg import vgg13 as vgg13
from kt_jax.models.vgg import vgg16 as vgg16
from kt_jax.models.vgg import vgg19 as vgg19
from kt_jax.models.vit import vit_base as vit_base
from kt_jax.models.vit import vit_small as vit_small
from kt_jax.models.vit import vit_tiny as vit_tiny
from kt_jax.models.wrn import wrn_16_1 as wrn_16_1
from kt_jax.models.wrn import wrn_16_2 as wrn_16_2
from kt_jax.models.wrn import wrn_28_10 as wrn_28_10
from kt_jax.models.wrn import wrn_40_1 as wrn_40_1
from kt_jax.models.wrn import wrn_40_2 as wrn_40_2


def builder(name, *, classes, input_shape, seed=0, **kw):
  """`build()` for `init` and `abstract`: makes the model `name`.

  Args:
    name: a constructor of this package; or one's own, as `module:function` or
      itself, of the same form: `(classes, input_shape, *, rngs, **sizes)`.
    classes: number of logits.
    input_shape: `(H, W, C)`.
    seed: of the initial parameters.
    **kw: sizes, the keyword arguments of the constructor.

  Raises:
    UserError: no such model or size.
  """
  make = name if callable(name) else core.resolve(
      sys.modules[__name__], name, 'model', takes='input_shape')
  name = core.spec.to_dict(name)
  signature, sizes = _signature(make)
  for size in kw:
    if sizes is not None and size not in sizes:
      raise core.UserError(core.nearest(f'size of {name} (model.kw)', size,
                                        sizes))
  try:
    signature.bind(classes, input_shape, rngs=None, **kw)
  except TypeError as e:
    raise core.UserError(
        f'model {name}: {e}; a constructor is called with (classes, '
        'input_shape, *, rngs) and the sizes in model.kw.') from e
  return functools.partial(_build, make, classes, input_shape, seed, kw)


def _signature(make) -> tuple[inspect.Signature, list[str] | None]:
  """Signature of a constructor, and its sizes; None: it takes any."""
  def of(fn):
    # A class may have a metaclass that hides the parameters of its __init__.
    signature = inspect.signature(fn.__init__ if inspect.isclass(fn) else fn)
    parameters = list(signature.parameters.values())[inspect.isclass(fn):]
    return (signature.replace(parameters=parameters),
            [p.name for p in parameters
             if p.kind is p.KEYWORD_ONLY and p.name != 'rngs'],
            any(p.kind is p.VAR_KEYWORD for p in parameters))
  signature, sizes, any_size = of(make)
  if any_size and inspect.isfunction(make):  # the rest goes to what it returns
    returned = typing.get_type_hints(make).get('return')
    if inspect.isclass(returned):
      _, more, any_size = of(returned)
      sizes += [size for size in more if size not in sizes]
  return signature, None if any_size else sizes


def _build(make, classes, input_shape, seed, kw):
  return make(classes, input_shape, rngs=nnx.Rngs(seed), **kw)
