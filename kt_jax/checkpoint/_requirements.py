"""Libraries that checkpoints need; imported first, so that the error is clear.
"""
from kt_jax.core import _extras

_extras.require('merge', 'kt_jax.checkpoint', 'etils', 'ml_dtypes', 'orbax',
                'safetensors', 'xxhash')
