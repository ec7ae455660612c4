"""Modules: parameters and state of loss terms (Flax NNX).

A loss term of a config refers to a module by its name in this package. The
positional parameters of its constructor are arrays by the names of
`kt_jax.losses`, as `jax.ShapeDtypeStruct`s of which only the shape is read;
keyword-only are `rngs` and the settings, of which `examples` (size of the
training set) and `classes` are filled in for constructors that have them. A
call takes arrays by name too and returns `{name: array}`, which replace or
extend the arrays of the term's loss.

Learned values are `nnx.Param`, state is another `nnx.Variable`; a call in
training updates it, but never from a row that `where` leaves out. Modules share
no Variables and do not `sow`. Names beyond those of the losses:

| array             | shape          | meaning                                |
|-------------------|----------------|----------------------------------------|
| `inputs`          | `[B, H, W, C]` | normalized images                      |
| `step`            | `[]`           | int32, number of updates so far        |
| `teachers_logits` | `[T, B, K]`    | of T teachers                          |
| `teacher_weights` | `[T, B]`       | of the teachers in their mixture       |
| `teacher_share`   | `[B]`          | weight of the teacher for each example |
| `label_share`     | `[B]`          | weight of the label for each example   |
| `reconstruction`  | `[B, ..., D]`  | of a layer, by an autoencoder          |
| `original`        | `[B, ..., D]`  | that layer                             |
"""
from kt_jax.modules.affine_augmentor import AffineAugmentor as AffineAugmentor
from kt_jax.modules.aspect_head import AspectHead as AspectHead
from kt_jax.modules.contrastive_memory import (
    ContrastiveMemory as ContrastiveMemory,
)
from kt_jax.modules.curriculum_temperature import (
    CurriculumTemperature as CurriculumTemperature,
)
from kt_jax.modules.embedding_head import EmbeddingHead as EmbeddingHead
from kt_jax.modules.factor_encoder import FactorEncoder as FactorEncoder
from kt_jax.modules.overhaul_connector import (
    OverhaulConnector as OverhaulConnector,
)
from kt_jax.modules.projector import Projector as Projector
from kt_jax.modules.review_fusion import ReviewFusion as ReviewFusion
from kt_jax.modules.sample_ratio import SampleRatio as SampleRatio
from kt_jax.modules.scheduled import Scheduled as Scheduled
from kt_jax.modules.soft_prompt import SoftPrompt as SoftPrompt
from kt_jax.modules.taid_schedule import TaidSchedule as TaidSchedule
from kt_jax.modules.teacher_adapter import TeacherAdapter as TeacherAdapter
from kt_jax.modules.teacher_mixture import TeacherMixture as TeacherMixture
from kt_jax.modules.token_graph import TokenGraph as TokenGraph
from kt_jax.modules.variational_regressor import (
    VariationalRegressor as VariationalRegressor,
)
from kt_jax.modules.weak_head import WeakHead as WeakHead
