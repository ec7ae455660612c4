"""Procedures: loops and solutions that training steps do not cover.

| to | use |
|---|---|
| distil a kernel regression into itself | `self_distillation_fit` and others |
| teach tables by samples | `ce_sgl`, `ce_ptl`, `sel_ptl`, `ce_ful` |
"""
from kt_jax.procedures.kernel_self_distillation import (
    kernel_ridge_path as kernel_ridge_path)
from kt_jax.procedures.kernel_self_distillation import (
    optimal_label_weight as optimal_label_weight)
from kt_jax.procedures.kernel_self_distillation import (
    self_distillation_fit as self_distillation_fit)
from kt_jax.procedures.kernel_self_distillation import (
    self_distillation_limit as self_distillation_limit)
from kt_jax.procedures.kernel_self_distillation import (
    self_distillation_spectrum as self_distillation_spectrum)
from kt_jax.procedures.tabular_learners import ce_ful as ce_ful
from kt_jax.procedures.tabular_learners import ce_ptl as ce_ptl
from kt_jax.procedures.tabular_learners import ce_sgl as ce_sgl
from kt_jax.procedures.tabular_learners import sample as sample
from kt_jax.procedures.tabular_learners import sel_ptl as sel_ptl
from kt_jax.procedures.tabular_learners import (
    total_variation_risk as total_variation_risk)
