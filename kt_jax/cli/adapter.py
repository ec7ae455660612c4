"""LoRA adapters as PEFT saves them, folded into a base while it is read."""
from collections.abc import Callable, Mapping
import functools
import math
import pathlib
import re

from jax import numpy as jnp
import numpy as np

from kt_jax import checkpoint
from kt_jax import core
from kt_jax.cli import adapter_config

Tensors = dict[str, checkpoint.Tensor]

_BLOCK = 2 ** 17  # entries of a delta that are computed at a time
_SMALL = 2 ** 17  # products, from four times as many on OpenBLAS has threads
_LORA = re.compile(r'(.+)\.lora_(A|B|embedding_A|embedding_B)(?:\.default)?'
                   r'(?:\.(weight|bias))?')
_CONV1D = {  # transformers' Conv1D keeps its matrix as [in, out]
    'gpt2': ('c_attn', 'c_proj', 'c_fc', 'q_attn'),
    'openai-gpt': ('c_attn', 'c_proj', 'c_fc'),
    'imagegpt': ('c_attn', 'c_proj', 'c_fc'),
    'decision_transformer': ('c_attn', 'c_proj', 'c_fc')}


class FoldedTensor(checkpoint.Tensor):
  """`base + scale * left @ right`, computed for the rows that are read.

  Rows are multiplied in blocks at fixed positions, so that the bits do not
  depend on how a tensor is cut into stretches.
  """

  def __init__(self, base: checkpoint.Tensor,
               factors: Callable[[], tuple[np.ndarray, np.ndarray]],
               scale: float):
    """Makes it.

    Args:
      base: `[rows, ...]`.
      factors: returns `left [rows, r]`, `right [r, columns]`; called once.
      scale: of their product.
    """
    super().__init__(base.name, base.shape, base.dtype)
    self._base, self._make, self._scale = base, factors, scale
    self._work = np.float64 if base.dtype == np.float64 else np.float32

  @functools.cached_property
  def _factors(self):
    return [np.ascontiguousarray(f, self._work) for f in self._make()]

  def read(self, start, out):
    self._base.read(start, out)
    if not len(out):
      return
    left, right = self._factors
    columns = right.shape[1]
    block = max(1, _BLOCK // columns)
    stop = start + len(out)
    for top in range(start // columns // block * block, -(-stop // columns),
                     block):
      delta = _product(left[top:top + block], right).reshape(-1) * self._scale
      first = top * columns
      low, high = max(start, first), min(stop, first + len(delta))
      part = out[low - start:high - start]
      with np.errstate(over='ignore'):
        part[:] = part.astype(self._work) + delta[low - first:high - first]


def _product(left, right) -> np.ndarray:
  """`left @ right` in pieces for which BLAS starts no threads.

  The workers of a merge use the cores already; on a loaded machine a thin
  product on all cores takes a hundred times as long.
  """
  step = max(1, _SMALL // max(1, left.size))
  if step >= right.shape[1] or left.shape[1] > 256:
    return left @ right
  out = np.empty((len(left), right.shape[1]), left.dtype)
  for start in range(0, right.shape[1], step):
    out[:, start:start + step] = left @ right[:, start:start + step]
  return out


def fold_adapter(tensors: Mapping[str, checkpoint.Tensor], folder,
                 model_type: str = '') -> Tensors:
  """A model with a LoRA adapter folded in; no weight is read yet.

    W + s B A,  s = lora_alpha / r  (/ sqrt(r) with use_rslora)

  Modules of another rank or alpha (`rank_pattern`, `alpha_pattern`), matrices
  stored as [in, out], embeddings, convolutions without groups, `lora_bias`, and
  whatever is saved in full (`modules_to_save`, biases) are folded too.

  Args:
    tensors: of the base.
    folder: has `adapter_config.json` and `adapter_model.safetensors`.
    model_type: of the base's config; some have matrices as [in, out].

  Returns:
    Name -> tensor, with the base's names, shapes, dtypes and order.

  Raises:
    UserError: a kind of adapter that is not plain LoRA, a damaged file, an
      adapter tensor that fits no tensor of the base.

  Departures: peft rounds s B A to the adapter's dtype before it adds, here
  there is one rounding, of the sum, to the base's dtype.

  References: Hu et al. 2021 (LoRA), Sec. 4.1.
  """
  folder = pathlib.Path(folder)
  config = adapter_config.read_config(folder)
  parts, result = {}, dict(tensors)
  for name, tensor in _open(folder).items():
    plain = name.removeprefix('base_model.model.')
    match = _LORA.fullmatch(plain)
    if match:
      module, letter, leaf = match.groups()
      kind = 'bias' if leaf == 'bias' else (
          'embedding' if letter.startswith('e') else 'weight')
      key = module.removesuffix('.base_layer'), kind
      parts.setdefault(key, {})[letter[-1]] = name, tensor
    else:  # saved in full
      target = re.sub(r'\.(modules_to_save(\.default)?|base_layer|'
                      r'original_module)\.', '.', plain)
      base = _target(target, name, tensors, folder)
      if tensor.shape != base.shape:
        raise core.UserError(
            f'{folder}: {name!r} has shape {tensor.shape}, {target!r} of the '
            f'base {base.shape}; resize the base first (its vocabulary?).')
      result[target] = tensor
  for (module, kind), pair in parts.items():
    target = module + ('.bias' if kind == 'bias' else '.weight')
    name = next(iter(pair.values()))[0]
    _target(target, name, tensors, folder)
    result[target] = _fold(result[target], module, kind, pair, config, folder,
                           model_type)
  return result


def is_transposed(module: str, model_type: str) -> bool:
  """Whether the matrix of a module is [in, out] in such a model."""
  return module.rpartition('.')[2] in _CONV1D.get(model_type, ())


def _fold(base, module, kind, pair, config, folder, model_type):
  rank = adapter_config.value_for(config['rank_pattern'], module, config['r'])
  alpha = adapter_config.value_for(config['alpha_pattern'], module,
                                   config['lora_alpha'])
  scale = alpha / (math.sqrt(rank) if config['use_rslora'] else rank)
  where = f'{folder}: LoRA of {module!r}'
  if not jnp.issubdtype(base.dtype, jnp.floating):
    raise core.UserError(f'{where}: the base has {base.dtype} there; a '
                         'quantized base must be expanded first.')
  if kind == 'bias':
    bias = pair.get('B', pair.get('A'))[1]
    if 'A' in pair or bias.shape != base.shape or len(base.shape) != 1:
      raise core.UserError(f'{where}: lora_{max(pair)} has a bias of shape '
                           f"{bias.shape}; the base's is {base.shape}.")
    return FoldedTensor(
        base, lambda: (bias.array()[:, None], np.ones((1, 1))), scale)
  if set(pair) != {'A', 'B'}:
    missing, = {'A', 'B'} - set(pair)
    raise core.UserError(f'{where}: lora_{missing} is missing.')
  a, b = pair['A'][1], pair['B'][1]
  shapes = f'A {a.shape}, B {b.shape}, base {base.shape}'
  ranks = {a.shape[:1], b.shape[1:2]}
  if len(a.shape) < 2 or len(a.shape) != len(b.shape) or len(ranks) != 1 or (
      math.prod(b.shape[2:]) != 1):
    raise core.UserError(f'{where}: A must be [r, in] and B [out, r]; {shapes} '
                         '(grouped convolutions are not offered).')
  if a.shape[0] != rank:
    raise core.UserError(f'{where}: adapter_config.json has rank {rank}; '
                         f'{shapes}.')
  product = b.shape[:1] + a.shape[1:]
  transposed = kind == 'embedding' or product != base.shape or (
      config['fan_in_fan_out'] or is_transposed(module, model_type)
  ) and len(product) == 2
  if transposed and product[::-1] == base.shape and len(product) == 2:
    factors = lambda: (a.array().T, b.array().T)
  elif product == base.shape and kind != 'embedding':
    factors = lambda: (b.array().reshape(-1, rank), a.array().reshape(rank, -1))
  else:
    raise core.UserError(f'{where}: B A does not fit; {shapes}.')
  return FoldedTensor(base, factors, scale)


def _target(target, name, tensors, folder):
  if target not in tensors:
    raise core.UserError(f'{folder}: {name!r} fits no tensor of the base. '
                         + core.nearest('base tensor', target, tensors))
  return tensors[target]


def _open(folder) -> Tensors:
  for file in ('adapter_model.safetensors', 'adapter_model.bin'):
    if (folder / file).is_file():
      return checkpoint.open_tensors(folder / file)  # which refuses a pickle
  raise core.UserError(f'{folder}: has no adapter_model.safetensors.')
