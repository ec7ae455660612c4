"""Writes decoders as Hugging Face directories."""
import json
import pathlib
import shutil

import jax
import numpy as np

from kt_jax import checkpoint
from kt_jax import core
from kt_jax.checkpoint import place as place_lib
from kt_jax.models import _hf_decoder as hf_decoder
from kt_jax.models import _hf_names as hf_names
from kt_jax.models import net as net_lib
from kt_jax.models.decoder import Decoder
from kt_jax.models.decoder_settings import decoder_settings

# Files of a tokenizer.
_TOKENIZER = ('tokenizer*', 'special_tokens_map.json', 'added_tokens.json',
              'vocab.*', 'merges.txt', 'chat_template*',
              'generation_config.json')


def save_pretrained(model: Decoder, directory, tokenizer=None, *,
                    shard_bytes: int = 5_000_000_000) -> None:
  """Writes config.json and safetensors that transformers can load.

  The directory is moved to its place when it is complete; it replaces a
  checkpoint there, with all files in it. Low-rank updates are folded into the
  weights, W + scale A B, in float32.

  Args:
    model: imported, or of any settings: the first family that has them is
      used.
    directory: to create; its parent exists.
    tokenizer: a folder with tokenizer files to copy; None: none.
    shard_bytes: largest file of weights.

  Raises:
    UserError: no family has the settings, or `directory` is something else.
  """
  if not isinstance(model, Decoder):
    raise core.UserError('save_pretrained: takes a Decoder, got a '
                         f'{type(model).__name__}.')
  if model.hf:
    config = json.loads(model.hf)
  else:
    config = hf_decoder.choose(
        model.embed.num_embeddings, model.context,
        decoder_settings(model))
  params = folded(model)
  groups = _tensors(config['model_type'], params)
  out = place_lib.choose(directory, True, [tokenizer] if tokenizer else [])
  copied = _tokenizer_files(tokenizer)
  if jax.process_index():
    return
  config.pop('dtype', None)  # older readers have torch_dtype only
  config['torch_dtype'] = params['embed/embedding'].dtype.name
  with place_lib.workspace(out) as folder:
    result = folder / 'result'
    result.mkdir()
    writer = checkpoint.TensorWriter(
        result, [(name, *_shape(params, group)) for name, group in
               groups.items()], shard_bytes=shard_bytes,
        metadata={'format': 'pt'})
    for name, group in groups.items():
      parts = [np.asarray(params[path]) for path, _ in group]
      value = np.concatenate(parts, -1) if len(parts) > 1 else parts[0]
      value = value.T if group[0][1].transposed else value
      writer.write(name, 0, value.reshape(-1))
    writer.close()
    for file in copied:
      shutil.copy(file, result)
    checkpoint.write_json(result / 'config.json', config)
    place_lib.put(result, out, True)


def folded(model: Decoder) -> net_lib.Arrays:
  """Parameters with low-rank updates added to their kernels."""
  params = net_lib.split(model)[1]
  scale = model.blocks[0].attention.query.lora_scale
  for path in [p for p in params if p.endswith('/lora_a')]:
    a, b = (core.to_float(params.pop(path[:-1] + end)) for end in 'ab')
    kernel = path.replace('lora_a', 'kernel')
    old = params[kernel]
    params[kernel] = (core.to_float(old) + scale * (a @ b)).astype(old.dtype)
  return params


def _tensors(kind, params) -> dict[str, list[tuple[str, hf_names.Place]]]:
  """Name of a tensor -> the parameters that it is concatenated from."""
  groups = {}
  for path in params:
    place = hf_names.place(kind, path)
    groups.setdefault(place.name, []).append((path, place))
  return {name: sorted(group, key=lambda one: one[1].third or 0)
          for name, group in groups.items()}


def _shape(params, group):
  """Shape and dtype of a tensor."""
  first = params[group[0][0]]
  shape = first.shape[::-1] if group[0][1].transposed else (
      *first.shape[:-1], first.shape[-1] * len(group))
  return shape, first.dtype


def _tokenizer_files(tokenizer) -> list[pathlib.Path]:
  if tokenizer is None:
    return []
  folder = pathlib.Path(tokenizer).expanduser()
  files = sorted({f for pattern in _TOKENIZER for f in folder.glob(pattern)
                  if f.is_file()})
  if not any(f.name.startswith(('tokenizer.', 'vocab.')) for f in files):
    raise core.UserError(f'{tokenizer}: has no tokenizer.json, tokenizer.model '
                         'or vocab.json.')
  return files
