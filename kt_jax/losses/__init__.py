"""Losses: arrays in, one value per example out.

The namespace is the registry: a config names a loss by its name here, and its
arrays by the names of its positional parameters. These are fixed:

| parameter             | shape                    | meaning                   |
|-----------------------|--------------------------|---------------------------|
| `student_logits`      | `[..., K]`               | of the trained network    |
| `teacher_logits`      | `[..., K]` `[T, ..., K]` | of one or T teachers      |
| `initial_logits`      | `[..., K]`               | before the transfer       |
| `student_weak_logits` | `[B, K]`                 | of an early head          |
| `labels`              | `[...]` `[..., K]`       | class ids, probabilities  |
| `student_aspects`     | `[..., Q]`               | yes/no, as logits         |
| `teacher_aspects`     | `[..., Q]`               | yes/no, as probabilities  |
| `student_features`    | `[B, ...]`               | outputs of a layer        |
| `teacher_features`    | `[B, ...]`               | the same of the teacher   |
| `student_embeddings`  | `[B, ...]`               | features, mapped          |
| `teacher_embeddings`  | `[B, ...]`               | the same of the teacher   |
| `student_negatives`   | `[B, N, D]`              | of other examples         |
| `teacher_negatives`   | `[B, N, D]`              | the same of the teacher   |
| `student_head`        | `[D, K]`                 | kernel of the classifier  |
| `teacher_head`        | `[D, K]`                 | the same of the teacher   |
| `targets`             | `[B, ...]`               | ground truth of outputs   |
| `variance`            | `[C]`                    | of each channel           |
| `margin`              | `[C]`                    | of each channel           |
| `where`               | `[...]`                  | bool, the rows that count |
| `index`               | `[B]`                    | place in the training set |
| `key`                 | `[]`                     | random key                |
| `sample_log_probs`    | `[..., S]`               | of the tokens sampled     |

Everything else is a setting and keyword-only. Axis letters: K classes, T
teachers; `...` of logits are free (examples, tokens, seeds) and are the axes of
the result. B examples: features are maps `[B, H, W, C]`, tokens `[B, N, C]` or
vectors `[B, C]`; a loss over layers takes them, and the arrays that belong to
them, as one array or as a list. On text S positions, V classes: position i's
logits are of token i + 1, `labels` and `where` are shifted by one already.

`linear_head` is not a loss: it applies one to hidden states and head matrices.
"""
from kt_jax.losses.feature.activation_boundary import (
    activation_boundary as activation_boundary,
)
from kt_jax.losses.feature.attention_transfer import (
    attention_transfer as attention_transfer,
)
from kt_jax.losses.feature.class_attention import (
    class_attention as class_attention,
)
from kt_jax.losses.feature.factor_transfer import (
    factor_transfer as factor_transfer,
)
from kt_jax.losses.feature.fsp import fsp as fsp
from kt_jax.losses.feature.hint import hint as hint
from kt_jax.losses.feature.knowledge_token import (
    knowledge_token as knowledge_token,
)
from kt_jax.losses.feature.nst import nst as nst
from kt_jax.losses.feature.overhaul import overhaul as overhaul
from kt_jax.losses.feature.review_kd import review_kd as review_kd
from kt_jax.losses.feature.vid import vid as vid
from kt_jax.losses.relation.cka import cka as cka
from kt_jax.losses.relation.class_relation import (
    class_relation as class_relation,
)
from kt_jax.losses.relation.correlation_congruence import (
    correlation_congruence as correlation_congruence,
)
from kt_jax.losses.relation.crd import crd as crd
from kt_jax.losses.relation.ickd import ickd as ickd
from kt_jax.losses.relation.info_nce import info_nce as info_nce
from kt_jax.losses.relation.inter_layer_relation import (
    inter_layer_relation as inter_layer_relation,
)
from kt_jax.losses.relation.intra_layer_pattern import (
    intra_layer_pattern as intra_layer_pattern,
)
from kt_jax.losses.relation.partial_ranking import (
    partial_ranking as partial_ranking,
)
from kt_jax.losses.relation.pkt import pkt as pkt
from kt_jax.losses.relation.rkd_angle import rkd_angle as rkd_angle
from kt_jax.losses.relation.rkd_distance import rkd_distance as rkd_distance
from kt_jax.losses.relation.similarity_preserving import (
    similarity_preserving as similarity_preserving,
)
from kt_jax.losses.relation.token_graph import token_graph as token_graph
from kt_jax.losses.response.bd_kd import bd_kd as bd_kd
from kt_jax.losses.response.cross_entropy import cross_entropy as cross_entropy
from kt_jax.losses.response.cwtm import cwtm as cwtm
from kt_jax.losses.response.dist import dist as dist
from kt_jax.losses.response.dkd import dkd as dkd
from kt_jax.losses.response.dkpp import dkpp as dkpp
from kt_jax.losses.response.expected_reward import (
    expected_reward as expected_reward,
)
from kt_jax.losses.response.jsd import jsd as jsd
from kt_jax.losses.response.kd import kd as kd
from kt_jax.losses.response.label_smoothing_kd import (
    label_smoothing_kd as label_smoothing_kd,
)
from kt_jax.losses.response.logit_standardized_kd import (
    logit_standardized_kd as logit_standardized_kd,
)
from kt_jax.losses.response.mlkd import mlkd as mlkd
from kt_jax.losses.response.multi_aspect import multi_aspect as multi_aspect
from kt_jax.losses.response.nkd import nkd as nkd
from kt_jax.losses.response.partitioned_kd import (
    partitioned_kd as partitioned_kd,
)
from kt_jax.losses.response.reverse_kl import reverse_kl as reverse_kl
from kt_jax.losses.response.skew_kl import skew_kl as skew_kl
from kt_jax.losses.response.skew_reverse_kl import (
    skew_reverse_kl as skew_reverse_kl,
)
from kt_jax.losses.response.squared_error_logit import (
    squared_error_logit as squared_error_logit,
)
from kt_jax.losses.response.total_variation import (
    total_variation as total_variation,
)
from kt_jax.losses.response.uskd import uskd as uskd
from kt_jax.losses.sequence.adaptive_kl import adaptive_kl as adaptive_kl
from kt_jax.losses.sequence.linear_head import linear_head as linear_head
from kt_jax.losses.sequence.logit_swap import logit_swap as logit_swap
from kt_jax.losses.sequence.minillm import minillm as minillm
from kt_jax.losses.sequence.self_evolution_kd import (
    self_evolution_kd as self_evolution_kd,
)
from kt_jax.losses.sequence.taid import taid as taid
from kt_jax.losses.sequence.top_kld import top_kld as top_kld
from kt_jax.losses.sequence.uld import uld as uld
