"""State, step, the one loop, evaluation, devices, metrics and plots."""
from kt_jax.train import _requirements as _requirements
from kt_jax.train.casting import seed_of as seed_of
from kt_jax.train.evaluate import (
    classification_metrics as classification_metrics,
)
from kt_jax.train.evaluate import make_predict as make_predict
from kt_jax.train.evaluate import predict_all as predict_all
from kt_jax.train.language import align as align
from kt_jax.train.language import from_likeliest as from_likeliest
from kt_jax.train.language import make_score as make_score
from kt_jax.train.language import quantize as quantize
from kt_jax.train.language_casting import check_vocabulary as check_vocabulary
from kt_jax.train.language_session import (
    make_language_session as make_language_session,
)
from kt_jax.train.loop import fit as fit
from kt_jax.train.loop import resume as resume
from kt_jax.train.loop import to_items as to_items
from kt_jax.train.mesh import initialize as initialize
from kt_jax.train.mesh import make_mesh as make_mesh
from kt_jax.train.mesh import putter as putter
from kt_jax.train.mesh import rows as rows
from kt_jax.train.mesh import shard_state as shard_state
from kt_jax.train.objective import make_objective as make_objective
from kt_jax.train.optimizer import make_optimizer as make_optimizer
from kt_jax.train.optimizer import make_schedule as make_schedule
from kt_jax.train.plots import curves as curves
from kt_jax.train.session import check as check
from kt_jax.train.session import describe as describe
from kt_jax.train.session import make_session as make_session
from kt_jax.train.session import open_stream as open_stream
from kt_jax.train.session import Report as Report
from kt_jax.train.session import Session as Session
from kt_jax.train.stage import as_tuple as as_tuple
from kt_jax.train.stage import owner as owner
from kt_jax.train.stage import part as part
from kt_jax.train.staging import make_stage_session as make_stage_session
from kt_jax.train.step import classification as classification
from kt_jax.train.step import init_state as init_state
from kt_jax.train.step import make_settings as make_settings
from kt_jax.train.step import make_step as make_step
from kt_jax.train.step import Settings as Settings
from kt_jax.train.step import State as State
from kt_jax.train.step import supervised as supervised
from kt_jax.train.trained import check_fits as check_fits
from kt_jax.train.trained import load_trained as load_trained
from kt_jax.train.trained import Trained as Trained
from kt_jax.train.writer import read_metrics as read_metrics
from kt_jax.train.writer import Writer as Writer
