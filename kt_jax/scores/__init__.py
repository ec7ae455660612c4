"""Scores of models, and of transfer between them, from logits and labels.

Predictions are argmaxes; N examples, K classes. `where [N]` marks the examples
that count, all by default; several pairs at once by `jax.vmap`.
"""
from kt_jax.scores.accuracy import accuracy as accuracy
from kt_jax.scores.agreement import agreement as agreement
from kt_jax.scores.areas_of_expertise import (
    areas_of_expertise as areas_of_expertise,
)
from kt_jax.scores.churn import churn as churn
from kt_jax.scores.class_flips import class_flips as class_flips
from kt_jax.scores.fidelity import fidelity as fidelity
from kt_jax.scores.knowledge_gain import knowledge_gain as knowledge_gain
from kt_jax.scores.knowledge_loss import knowledge_loss as knowledge_loss
from kt_jax.scores.rho_negative import rho_negative as rho_negative
from kt_jax.scores.rho_positive import rho_positive as rho_positive
from kt_jax.scores.top_k_accuracy import top_k_accuracy as top_k_accuracy
from kt_jax.scores.transfer_rate import transfer_rate as transfer_rate
