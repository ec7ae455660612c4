"""Procedures: loops and closed-form solutions beside training steps.

| to | use |
|---|---|
| distill a kernel regression into itself | `self_distillation_fit` and others |
| distill tables from samples | `ce_sgl`, `ce_ptl`, `sel_ptl`, `ce_ful` |
| average the models that help | `greedy_soup` |
| learn a merge's coefficients | `learned_coefficients`, `merge_per_leaf` |
| ... for an objective | `cross_entropy_objective`, `entropy_objective`, ... |
| search for a merge | `cma_es`, `random_search` over `parameter_space` |
| search for a path through layers | ... over `data_flow` |
| score many merges | `evaluate_population` |
| merge for each input | `twin_merging`, `mlp_router` |
| swap layers of two models | `layer_swap` |
| carry a difference to another model | `task_patch`, `apply_patch` |
| train singular values only | `singular_values` |
| minimize any loss over a few numbers | `descend` |
| sample domains by the student's gap | `domain_shares` |
"""
from kt_jax.procedures._search import Search as Search
from kt_jax.procedures.cma_es import cma_es as cma_es
from kt_jax.procedures.data_flow import data_flow as data_flow
from kt_jax.procedures.data_flow import Flow as Flow
from kt_jax.procedures.descend import descend as descend
from kt_jax.procedures.descend import Descent as Descent
from kt_jax.procedures.descend import DescentState as DescentState
from kt_jax.procedures.domain_shares import domain_shares as domain_shares
from kt_jax.procedures.evaluate_population import (
    evaluate_population as evaluate_population,
)
from kt_jax.procedures.greedy_soup import greedy_soup as greedy_soup
from kt_jax.procedures.greedy_soup import Soup as Soup
from kt_jax.procedures.kernel_self_distillation import (
    kernel_ridge_path as kernel_ridge_path,
)
from kt_jax.procedures.kernel_self_distillation import (
    optimal_label_weight as optimal_label_weight,
)
from kt_jax.procedures.kernel_self_distillation import (
    self_distillation_fit as self_distillation_fit,
)
from kt_jax.procedures.kernel_self_distillation import (
    self_distillation_limit as self_distillation_limit,
)
from kt_jax.procedures.kernel_self_distillation import (
    self_distillation_spectrum as self_distillation_spectrum,
)
from kt_jax.procedures.layer_swap import layer_swap as layer_swap
from kt_jax.procedures.layer_swap import swap_weights as swap_weights
from kt_jax.procedures.learned_coefficients import (
    learned_coefficients as learned_coefficients,
)
from kt_jax.procedures.learned_coefficients import LearnedMerge as LearnedMerge
from kt_jax.procedures.merge_per_leaf import (
    init_coefficients as init_coefficients,
)
from kt_jax.procedures.merge_per_leaf import merge_per_leaf as merge_per_leaf
from kt_jax.procedures.merge_per_leaf import random_parts as random_parts
from kt_jax.procedures.mlp_router import mlp_router as mlp_router
from kt_jax.procedures.mlp_router import Router as Router
from kt_jax.procedures.objectives import (
    cross_entropy_objective as cross_entropy_objective,
)
from kt_jax.procedures.objectives import entropy_objective as entropy_objective
from kt_jax.procedures.objectives import (
    negation_objective as negation_objective,
)
from kt_jax.procedures.objectives import (
    task_sum_objective as task_sum_objective,
)
from kt_jax.procedures.parameter_space import parameter_space as parameter_space
from kt_jax.procedures.parameter_space import Space as Space
from kt_jax.procedures.random_search import random_search as random_search
from kt_jax.procedures.singular_values import singular_params as singular_params
from kt_jax.procedures.singular_values import singular_values as singular_values
from kt_jax.procedures.singular_values import SingularBasis as SingularBasis
from kt_jax.procedures.tabular_learners import ce_ful as ce_ful
from kt_jax.procedures.tabular_learners import ce_ptl as ce_ptl
from kt_jax.procedures.tabular_learners import ce_sgl as ce_sgl
from kt_jax.procedures.tabular_learners import sample as sample
from kt_jax.procedures.tabular_learners import sel_ptl as sel_ptl
from kt_jax.procedures.tabular_learners import (
    total_variation_risk as total_variation_risk,
)
from kt_jax.procedures.task_patch import apply_patch as apply_patch
from kt_jax.procedures.task_patch import task_patch as task_patch
from kt_jax.procedures.twin_merging import Twin as Twin
from kt_jax.procedures.twin_merging import twin_dense as twin_dense
from kt_jax.procedures.twin_merging import twin_forward as twin_forward
from kt_jax.procedures.twin_merging import twin_merging as twin_merging
from kt_jax.procedures.twin_merging import twin_params as twin_params
