"""Models on disk as name -> tensor."""
from collections.abc import Mapping
import os
import pathlib
import re
from typing import Any, NamedTuple

from etils import epath
import jax
import numpy as np

from kt_jax import checkpoint
from kt_jax import core
from kt_jax.checkpoint import safetensors
from kt_jax.cli import adapter

_HUB_ID = re.compile(r'[\w][\w.-]*/[\w][\w.-]*(@[\w./-]+)?')
_ORBAX = ('_METADATA', 'manifest.ocdbt')  # one of them is in every pytree


class OpenedModel(NamedTuple):
  path: pathlib.Path  # directory or file of the base
  tensors: dict[str, checkpoint.Tensor]
  config: dict[str, Any] | None  # config.json of a Hugging Face directory
  kind: str  # 'huggingface', 'safetensors', 'run' or 'orbax'


def open_model(reference: str | os.PathLike[str],
               stages: Mapping[str, OpenedModel] | None = None) -> OpenedModel:
  """Opens a model; weights are read later, and only those that are used.

  Args:
    reference: a local path: a Hugging Face directory, a safetensors file or
      index, the --workdir of a run (the checkpoint that its card names), or a
      directory where Orbax saved a pytree of arrays (these two are loaded).
      'model+adapter' folds a PEFT LoRA adapter into the model.
    stages: models that are not on disk yet, by name.

  Returns:
    `OpenedModel`; `tensors` are named as in the file, or by tree path ('a/b').

  Raises:
    UserError: nothing there, a pickle, a damaged file, an adapter that does
      not fit.
  """
  base, lora = _split(str(reference))
  path = pathlib.Path(os.path.expanduser(base))
  if stages and base in stages:
    model = stages[base]
  elif not path.exists():
    raise core.UserError(_absent(base))
  else:
    model = _open(path)
  if not lora:
    return model
  folder = pathlib.Path(os.path.expanduser(lora))
  if not folder.is_dir():
    raise core.UserError(_absent(lora))
  return model._replace(tensors=adapter.fold_adapter(
      model.tensors, folder, str((model.config or {}).get('model_type'))))


def _split(reference: str) -> tuple[str, str]:
  """Model and adapter ('' for none); a + may be part of an existing path."""
  if '\0' in reference or not reference.strip():
    raise core.UserError(f'model {reference!r}: must be a path.')
  if '+' not in reference or _exists(reference):
    return reference, ''
  cuts = [(reference[:m.start()], reference[m.end():])
          for m in re.finditer(r'\+', reference)]
  best = max(cuts, key=lambda cut: sum(map(_exists, cut)))
  if not all(best):
    raise core.UserError(f'model {reference!r}: on both sides of + there must '
                         'be a path, model+adapter.')
  return best


def _exists(path: str) -> bool:
  return os.path.exists(os.path.expanduser(path))


def _open(path: pathlib.Path) -> OpenedModel:
  if path.is_dir():
    if (path / 'checkpoints').is_dir() and not any(
        path.glob('*.safetensors')):
      tree = checkpoint.read(path).model
      return OpenedModel(path, _of_tree(tree), None, 'run')
    item = _orbax_item(path)
    if item:
      return OpenedModel(path, _of_tree(_load_orbax(item)), None, 'orbax')
  tensors = checkpoint.open_tensors(path)
  config = path / 'config.json'
  if path.is_dir() and os.path.lexists(config):
    if not config.is_file():
      raise core.UserError(f'{config}: is not a file, or a broken link.')
    return OpenedModel(path, tensors, safetensors.read_object(config),
                       'huggingface')
  return OpenedModel(path, tensors, None, 'safetensors')


def _of_tree(tree) -> dict[str, checkpoint.Tensor]:
  return {name: checkpoint.ArrayTensor(name, leaf)
          for name, leaf in core.flatten(tree).items()}


def _orbax_item(path: pathlib.Path) -> pathlib.Path | None:
  """The directory of Orbax's pytree: this, an item, or in the newest step."""
  is_item = lambda p: any((p / mark).is_file() for mark in _ORBAX)
  if is_item(path):
    return path
  steps = sorted((p for p in path.iterdir() if re.fullmatch(r'\d+', p.name)
                  and p.is_dir()), key=lambda p: int(p.name))
  folder = steps[-1] if steps else path
  if is_item(folder):
    return folder
  items = [p for p in sorted(folder.iterdir()) if p.is_dir() and is_item(p)]
  named = [p for p in items if p.name in ('model', 'params', 'default')]
  if len(items) > 1 and len(named) != 1:
    raise core.UserError(f'{folder}: which of {[p.name for p in items]}? Give '
                         'the path of one.')
  return (named or items or [None])[0]


def _load_orbax(path: pathlib.Path) -> Any:
  import orbax.checkpoint as ocp  # half a second that most merges do without
  arrays = ocp.PyTreeCheckpointHandler()
  folder = epath.Path(path.resolve())
  try:
    kinds = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray),
                         arrays.metadata(folder).tree)
    tree = arrays.restore(
        folder, args=ocp.args.PyTreeRestore(restore_args=kinds))
  except Exception as e:  # Orbax and TensorStore raise many kinds
    line = (str(e).strip().splitlines() or [type(e).__name__])[0][:300]
    raise core.UserError(f'{path}: cannot be read as an Orbax pytree of '
                         f'arrays: {line}.') from e
  for name, leaf in core.flatten(tree).items():
    if np.asarray(leaf).dtype.kind in 'OSU':
      raise core.UserError(f'{path}: {name!r} is not an array.')
  return tree


def _absent(reference: str) -> str:
  if not _HUB_ID.fullmatch(reference):
    return f'{reference}: no such file or directory.'
  name, _, revision = reference.partition('@')
  option = f' --revision {revision}' if revision else ''
  folder = name.partition('/')[2]
  return (f'{reference}: no such directory. If it is a model of the Hugging '
          f'Face Hub, fetch it first: hf download {name}{option} --local-dir '
          f'{folder}; then give the path {folder}.')
