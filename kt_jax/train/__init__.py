"""Training: specs, networks, loss terms, step, the one loop, evaluation.

  spec = train.Training(
      model=train.Model('mlp', dict(width=32)),
      terms=dict(task=train.LossTerm('cross_entropy')),
      optimizer=train.Optimizer('sgd', 0.1),
      loop=train.Loop(steps=200))
  metrics = train.run(spec, '/tmp/digits')  # the same call again resumes

| to | use |
|---|---|
| know every key | `Training` and its parts in `train/specs.py` |
| train, resume, measure | `run`; `check` traces without computing |
| read a model; bring one of one's own | `load_trained`, `trained_from` |
| write an own loop | `make_session`, then `fit` or `session.step` |
| write an own step | `make_step`, `init_state`, `step_inputs` |
"""
from kt_jax.train import _requirements as _requirements
from kt_jax.train import pool as pool
from kt_jax.train.evaluate import (
    classification_metrics as classification_metrics,
)
from kt_jax.train.evaluate import make_predict as make_predict
from kt_jax.train.evaluate import predict_all as predict_all
from kt_jax.train.evaluate_lm import first_rows as first_rows
from kt_jax.train.evaluate_lm import Generator as Generator
from kt_jax.train.evaluate_lm import likelihood as likelihood
from kt_jax.train.graph import make_forward as make_forward
from kt_jax.train.graph import make_observe as make_observe
from kt_jax.train.graph import Network as Network
from kt_jax.train.graph import quantize as quantize
from kt_jax.train.graph import resolve_terms as resolve_terms
from kt_jax.train.graph import TermGraph as TermGraph
from kt_jax.train.image_run import open_stream as open_stream
from kt_jax.train.image_run import save_predictions as save_predictions
from kt_jax.train.images import ImageContext as ImageContext
from kt_jax.train.images import prepare_images as prepare_images
from kt_jax.train.loop import fit as fit
from kt_jax.train.loop import resume as resume
from kt_jax.train.loop import to_items as to_items
from kt_jax.train.mesh import initialize as initialize
from kt_jax.train.mesh import make_mesh as make_mesh
from kt_jax.train.mesh import make_shard_batch as make_shard_batch
from kt_jax.train.mesh import rows as rows
from kt_jax.train.mesh import shard_state as shard_state
from kt_jax.train.networks import check_vocabulary as check_vocabulary
from kt_jax.train.networks import seed_of as seed_of
from kt_jax.train.optimizer import make_optimizer as make_optimizer
from kt_jax.train.optimizer import make_schedule as make_schedule
from kt_jax.train.plots import curves as curves
from kt_jax.train.pretrained import check_fits as check_fits
from kt_jax.train.pretrained import load_trained as load_trained
from kt_jax.train.pretrained import Trained as Trained
from kt_jax.train.pretrained import trained_from as trained_from
from kt_jax.train.run import check as check
from kt_jax.train.run import check_pool as check_pool
from kt_jax.train.run import finished as finished
from kt_jax.train.run import prepare as prepare
from kt_jax.train.run import right as right
from kt_jax.train.run import run as run
from kt_jax.train.session import make_session as make_session
from kt_jax.train.session import Report as Report
from kt_jax.train.session import report as report
from kt_jax.train.session import Session as Session
from kt_jax.train.specs import Batch as Batch
from kt_jax.train.specs import Bilevel as Bilevel
from kt_jax.train.specs import Cache as Cache
from kt_jax.train.specs import Evaluation as Evaluation
from kt_jax.train.specs import Init as Init
from kt_jax.train.specs import Loop as Loop
from kt_jax.train.specs import LossTerm as LossTerm
from kt_jax.train.specs import Mesh as Mesh
from kt_jax.train.specs import Mixture as Mixture
from kt_jax.train.specs import Model as Model
from kt_jax.train.specs import Module as Module
from kt_jax.train.specs import Optimizer as Optimizer
from kt_jax.train.specs import Pretrained as Pretrained
from kt_jax.train.specs import Sampling as Sampling
from kt_jax.train.specs import Schedule as Schedule
from kt_jax.train.specs import Step as Step
from kt_jax.train.specs import Teacher as Teacher
from kt_jax.train.specs import Training as Training
from kt_jax.train.step import init_state as init_state
from kt_jax.train.step import make_step as make_step
from kt_jax.train.step import State as State
from kt_jax.train.step import step_inputs as step_inputs
from kt_jax.train.step import StepInputs as StepInputs
from kt_jax.train.tokens import align as align
from kt_jax.train.tokens import make_score as make_score
from kt_jax.train.writer import read_metrics as read_metrics
from kt_jax.train.writer import Writer as Writer
