"""Merge operators on leaves, and the functions that lift them to models.

A leaf operator is `op(base [...], models [T, ...], weight [T], *extras,
**settings) -> [...]`; T counts the models. `over_tree` runs it on pytrees,
`over_stream` on checkpoints larger than memory. `kt_jax.merge.contract`
documents what an operator of your own may declare.
"""
from kt_jax.merge.arcee_fusion import arcee_fusion as arcee_fusion
from kt_jax.merge.breadcrumbs import breadcrumbs as breadcrumbs
from kt_jax.merge.contract import Choice as Choice
from kt_jax.merge.contract import Contract as Contract
from kt_jax.merge.contract import contract_of as contract_of
from kt_jax.merge.contract import declare as declare
from kt_jax.merge.contract import Measure as Measure
from kt_jax.merge.dare import dare as dare
from kt_jax.merge.della import della as della
from kt_jax.merge.fisher import fisher as fisher
from kt_jax.merge.karcher import karcher as karcher
from kt_jax.merge.linear import linear as linear
from kt_jax.merge.mix import mix as mix
from kt_jax.merge.model_stock import model_stock as model_stock
from kt_jax.merge.multi_source_svd import multi_source_svd as multi_source_svd
from kt_jax.merge.multislerp import multislerp as multislerp
from kt_jax.merge.nearswap import nearswap as nearswap
from kt_jax.merge.nuslerp import nuslerp as nuslerp
from kt_jax.merge.passthrough import passthrough as passthrough
from kt_jax.merge.regmean import regmean as regmean
from kt_jax.merge.rules import depths as depths
from kt_jax.merge.rules import Gradient as Gradient
from kt_jax.merge.rules import layer_of as layer_of
from kt_jax.merge.sce import sce as sce
from kt_jax.merge.slerp import slerp as slerp
from kt_jax.merge.stream import over_stream as over_stream
from kt_jax.merge.svd_factors import as_matrix as as_matrix
from kt_jax.merge.svd_factors import rank_of as rank_of
from kt_jax.merge.svd_factors import svd_factors as svd_factors
from kt_jax.merge.svd_truncate import svd_truncate as svd_truncate
from kt_jax.merge.task_arithmetic import task_arithmetic as task_arithmetic
from kt_jax.merge.task_singular_vectors import (
    task_singular_vectors as task_singular_vectors,
)
from kt_jax.merge.ties import ties as ties
from kt_jax.merge.tree import over_tree as over_tree
from kt_jax.merge.whole_model_bounds import (
    whole_model_bounds as whole_model_bounds,
)
