"""The difference of two models as a LoRA adapter that PEFT reads."""
from collections.abc import Callable, Mapping
import contextlib
import json
import os
import pathlib
import re
import secrets
import shutil
from typing import NamedTuple

from jax import numpy as jnp
import numpy as np
from scipy import linalg
from sklearn.utils import extmath

from kt_jax import checkpoint
from kt_jax import core
from kt_jax.cli import adapter
from kt_jax.cli import embeddings
from kt_jax.cli.open_model import OpenedModel

_EXACT = 512  # smaller side up to which all singular values are computed
_CHUNK = 2 ** 20


class ExtractedLora(NamedTuple):
  ranks: dict[str, int]  # module -> rank
  errors: dict[str, float]  # module -> ||delta - B A|| / ||delta||
  saved: list[str]  # leaves that the adapter has in full
  left: list[str]  # leaves that changed and that it lacks


def extract_lora(
    base: OpenedModel, tuned: OpenedModel, out,
    *, rank: int | None = 16, energy: float | None = None, modules: str = '',
    save_rest: bool = False,
    progress: Callable[[str], None] = lambda name: None) -> ExtractedLora:
  r"""Writes the change of every matrix as a product of low rank.

    W_tuned - W_base = U S V^T,  B = U_r sqrt(S_r),  A = sqrt(S_r) V_r^T

  so that `open_model('base+out')` is the tuned model up to what is cut off.
  The decomposition is exact (LAPACK) for `energy` and for matrices with a
  smaller side of at most 512 or four times the rank; else it is randomized
  (10 more vectors, 4 power iterations, fixed seed). Factors are float32 with
  lora_alpha = r, which makes the scale 1.

  Args:
    base: the model that the adapter will be for.
    tuned: of the same names and shapes.
    out: directory to make; it appears when it is complete.
    rank: limit for each matrix; None for no limit but `energy`.
    energy: share of sum s^2 to keep, in (0, 1]; the smallest rank that does.
    modules: regex that the names of modules must contain; '' for all.
    save_rest: whether embeddings, norms and other leaves that changed are
      saved in full (`modules_to_save`); else they are only reported. Biases of
      matrices that have a product are always only reported.
    progress: called with each name when it is done.

  Returns:
    `ExtractedLora`.

  Raises:
    UserError: names or shapes that differ, an existing `out`, nothing that
      changed, an invalid rank, energy or regex.

  Departures: mergekit saves embeddings and norms in full unless told not to,
  also where they did not change; factors are rounded to the model's dtype.

  References: Halko, Martinsson, Tropp 2009, Sec. 4.4 and 5.1 (the randomized
  one, as implemented by scikit-learn).
  """
  out = pathlib.Path(os.path.expanduser(out))
  pattern = _check(base, tuned, out, rank, energy, modules)
  model_type = str((base.config or {}).get('model_type'))
  factors, errors, full, left = {}, {}, [], []
  for name, tensor in base.tensors.items():
    other = tuned.tensors[name]
    if not _same(tensor, other):
      module, _, leaf = name.rpartition('.')
      floating = jnp.issubdtype(tensor.dtype, jnp.floating)
      if (leaf == 'weight' and len(tensor.shape) == 2 and floating
          and not embeddings.is_vocabulary(name) and pattern.search(module)
          and not re.search(r'embed|wpe$', module)):
        *factors[module], errors[module] = _decompose(
            tensor, other, name, rank, energy,
            adapter.is_transposed(module, model_type))
      else:
        full.append(name)
    progress(name)
  if not save_rest:
    full, left = [], full
  else:
    biases = {m + '.bias' for m in factors}
    full, left = ([n for n in full if n not in biases],
                  [n for n in full if n in biases])
    modules_saved = {n.rpartition('.')[0] for n in full}
    full = [n for n in base.tensors if n.rpartition('.')[0] in modules_saved]
  if not factors and not full:
    raise core.UserError('No matrix that may be extracted differs between base '
                         f'and tuned model; others that do: {left or "none"}.')
  ranks = {module: len(a) for module, (a, _) in factors.items()}
  transposed = any(adapter.is_transposed(m, model_type) for m in ranks)
  _write(out, _config(base, ranks, full, transposed),
         _entries(factors, full, tuned.tensors))
  return ExtractedLora(ranks, errors, full, left)


def _check(base, tuned, out, rank, energy, modules) -> re.Pattern:
  if rank is None and energy is None:
    raise core.UserError('extract-lora: give a rank or an energy.')
  if rank is not None and (type(rank) is not int or rank < 1):
    raise core.UserError(f'extract-lora: rank must be a whole number >= 1, got '
                         f'{rank!r}.')
  if energy is not None and not 0 < energy <= 1:
    raise core.UserError(f'extract-lora: energy must be in (0, 1], got '
                         f'{energy!r}.')
  for name in base.tensors.keys() ^ tuned.tensors.keys():
    raise core.UserError(f'extract-lora: {name!r} is in one of the two models '
                         'only.')
  for name, tensor in base.tensors.items():
    if tensor.shape != tuned.tensors[name].shape:
      raise core.UserError(f'extract-lora: {name!r} has shape {tensor.shape} '
                           f'in the base, {tuned.tensors[name].shape} in the '
                           'tuned model.')
  if out.exists():
    raise core.UserError(f'{out}: already exists; name a new directory.')
  try:
    return re.compile(modules)
  except re.error as e:
    raise core.UserError(f'extract-lora: modules {modules!r}: {e}.') from e


def _same(a, b) -> bool:
  """Whether all values are equal, up to the first stretch that is not."""
  for start in range(0, a.size, _CHUNK):
    count = min(_CHUNK, a.size - start)
    x, y = np.empty(count, a.dtype), np.empty(count, b.dtype)
    a.read(start, x)
    b.read(start, y)
    if not np.array_equal(x, y):
      return False
  return True


def _decompose(base, tuned, name, rank, energy, transposed):
  """`(A, B, error)` of one matrix."""
  delta = tuned.array().astype(np.float32) - base.array().astype(np.float32)
  if not np.isfinite(delta).all():
    raise core.UserError(f'extract-lora: {name!r} has values that are not '
                         'finite.')
  delta = delta.T if transposed else delta
  side = min(delta.shape)
  if energy is not None or side <= max(_EXACT, 4 * rank):
    u, s, vt = map(np.asarray, linalg.svd(
        delta, full_matrices=False, check_finite=False))
    keep = min(rank or side, int((s > s[0] * side * 1e-8).sum()))
    if energy is not None:
      share = np.cumsum(s.astype(np.float64) ** 2)
      keep = min(keep, 1 + int(np.searchsorted(share, energy * share[-1])))
  else:
    u, s, vt = map(np.asarray, extmath.randomized_svd(
        delta, rank, n_oversamples=10, n_iter=4, random_state=0))
    keep = rank
  root = np.sqrt(s[:keep])
  a, b = root[:, None] * vt[:keep], u[:, :keep] * root
  error = np.linalg.norm(delta - b @ a) / np.linalg.norm(delta)
  return (np.ascontiguousarray(a, np.float32),
          np.ascontiguousarray(b, np.float32), float(error))


def _config(base, ranks, full, transposed):
  most = max(ranks.values(), default=1)
  other = {module: r for module, r in ranks.items() if r != most}
  return dict(
      peft_type='LORA', base_model_name_or_path=base.path.name,
      r=most, lora_alpha=most, rank_pattern=other, alpha_pattern=other,
      target_modules=sorted(ranks), use_rslora=False, bias='none',
      fan_in_fan_out=transposed, inference_mode=True, lora_dropout=0.0,
      modules_to_save=sorted({n.rpartition('.')[0] for n in full}) or None)


def _entries(factors, full, tensors: Mapping[str, checkpoint.Tensor]):
  entries = []
  for module, pair in factors.items():
    for letter, array in zip('AB', pair):
      name = f'base_model.model.{module}.lora_{letter}.weight'
      entries.append((name, checkpoint.ArrayTensor(name, array)))
  return entries + [(f'base_model.model.{n}', tensors[n]) for n in full]


def _write(out: pathlib.Path, config, entries) -> None:
  """Writes a directory that appears when it is complete."""
  part = out.parent / f'.{out.name}.{secrets.token_hex(4)}.part'
  try:
    part.mkdir(parents=True)
    writer = checkpoint.TensorWriter(
        part, [(name, t.shape, t.dtype) for name, t in entries],
        shard_bytes=2 ** 62, metadata={'format': 'pt'})
    for name, tensor in entries:
      for start in range(0, tensor.size, _CHUNK):
        values = np.empty(min(_CHUNK, tensor.size - start), tensor.dtype)
        tensor.read(start, values)
        writer.write(name, start, values)
    writer.close()
    (part / 'model.safetensors').rename(part / 'adapter_model.safetensors')
    text = json.dumps(config, indent=2, sort_keys=True) + '\n'
    (part / 'adapter_config.json').write_text(text)
    os.rename(part, out)
  except OSError as e:
    raise core.UserError(f'Cannot write {out}: {e.strerror or e}.') from e
  finally:
    with contextlib.suppress(OSError):
      shutil.rmtree(part)
