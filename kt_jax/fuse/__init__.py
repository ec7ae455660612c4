"""Fusion at decode time: logits of several models in, one distribution out.

The arrays have the same names everywhere:

| parameter            | shape                    | meaning                    |
|----------------------|--------------------------|----------------------------|
| `base_logits`        | `[..., V]`               | of the model that is moved |
| `expert_logits`      | `[..., V]` `[T, ..., V]` | of one or T tuned models   |
| `anti_expert_logits` | `[..., V]` `[T, ..., V]` | of the same, not tuned     |
| `logits`             | `[T, ..., V]`            | of T models that are mixed |
| `weight`             | `[T]` `[T, ...]`         | of each model              |

Everything else is a setting and keyword-only. Axis letters: V words of the one
vocabulary that all models share, T models; `...` are free (rows, positions).
The result is log-probabilities `[..., V]`, which are logits: a sampler's
temperature and nucleus apply to the result, once, and not to the inputs.
"""
from kt_jax.fuse.dynamic_logit_fusion import (
    dynamic_logit_fusion as dynamic_logit_fusion,
)
from kt_jax.fuse.emulated_fine_tuning import (
    emulated_fine_tuning as emulated_fine_tuning,
)
from kt_jax.fuse.ensemble import ensemble as ensemble
