"""Runs on disk: work directories, Orbax checkpoints, cards, safetensors."""
from kt_jax.checkpoint import _requirements as _requirements
from kt_jax.checkpoint.safetensors import open_safetensors as open_safetensors
from kt_jax.checkpoint.tensors import ArrayTensor as ArrayTensor
from kt_jax.checkpoint.tensors import open_tensors as open_tensors
from kt_jax.checkpoint.tensors import Tensor as Tensor
from kt_jax.checkpoint.tensors import TensorWriter as TensorWriter
from kt_jax.checkpoint.workdir import code_version as code_version
from kt_jax.checkpoint.workdir import config_hash as config_hash
from kt_jax.checkpoint.workdir import open_workdir as open_workdir
from kt_jax.checkpoint.workdir import read_json as read_json
from kt_jax.checkpoint.workdir import write_atomic as write_atomic
from kt_jax.checkpoint.workdir import write_json as write_json


def __getattr__(name):
  """Orbax is imported when it is used: `kt-merge` often does not."""
  if name in ('digest', 'read', 'Run'):
    from kt_jax.checkpoint import run  # pylint: disable=import-outside-toplevel
    return getattr(run, name)
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
