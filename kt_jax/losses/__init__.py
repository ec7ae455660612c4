"""Losses: arrays in, one value per example out.

The namespace is the registry: a config names a loss by the name it has here,
and its arrays by the names of its positional parameters. These are fixed:

| parameter        | shape                    | what                           |
|------------------|--------------------------|--------------------------------|
| `student_logits` | `[..., K]`               | of the model that learns       |
| `teacher_logits` | `[..., K]` `[T, ..., K]` | of the teacher, of T teachers  |
| `initial_logits` | `[..., K]`               | of the student before transfer |
| `labels`         | `[...]` `[..., K]`       | class ids, probabilities       |

Everything else is a setting and keyword-only. Axis letters: K classes, T
teachers; `...` are free (examples, tokens, seeds) and come back as they were.
"""
from kt_jax.losses.response.cross_entropy import cross_entropy as cross_entropy
from kt_jax.losses.response.kd import kd as kd
from kt_jax.losses.response.partitioned_kd import (
    partitioned_kd as partitioned_kd)
