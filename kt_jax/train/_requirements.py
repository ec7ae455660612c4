"""Libraries that training needs; imported first, so that the error is clear."""
from kt_jax.core import _extras

_extras.require(
    'train', 'kt_jax.train', 'PIL', 'absl', 'array_record', 'etils', 'flax',
    'grain', 'ml_dtypes', 'optax', 'orbax', 'safetensors', 'tqdm', 'xxhash')
