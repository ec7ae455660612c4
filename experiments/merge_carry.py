"""Arms of `merge` that carry parts or differences from model to model."""
import jax
from jax import numpy as jnp
import numpy as np

from experiments import merge_apply
from experiments import merge_kinds
from experiments.merge_options import OneOf
from experiments.merge_options import options
from experiments.merge_options import read
from experiments.merge_options import Task
from kt_jax import merge
from kt_jax import procedures


@options(bottom=1, top=0, transition=0, others=0.0)
def swap(config, arm, scene) -> merge_kinds.Made:
  """The first expert at the ends, the second in the middle.

  Recorded: how far each expert went from the base in each layer, relative to
  the base's norm there ('TASK_LAYER').
  """
  (outer, buffers), (middle, _) = merge_apply.experts(config, arm, scene)
  s = read(config, arm, swap)
  merged = procedures.layer_swap(outer, middle, **vars(s))
  moved = {f'{task}_{layer}': value
           for task, model in zip(arm.experts, (outer, middle))
           for layer, value in distances(scene.base.params, model).items()}
  return merge_kinds.of_model(scene, (merged, buffers), moved)


def distances(base, model):
  """Layer (a number, or the first name of a path) -> |model - base| / |base|.
  """
  sums = {}
  for path, leaf in base.items():
    layer = merge.layer_of(path)
    name = path.split('/')[0] if layer is None else str(layer)
    far, size = sums.get(name, (0, 0))
    sums[name] = (far + float(jnp.sum((model[path] - leaf)**2)),
                  size + float(jnp.sum(leaf**2)))
  return {name: (far / size)**0.5 for name, (far, size) in sums.items()}


@options(target=Task(), tuned=Task(), start=Task(), scale=1.0, rank=0, skip=(),
         noise=OneOf(('none', 'shuffled', 'random')))
def patch(config, arm, scene) -> merge_kinds.Made:
  """target + scale (tuned - start): experts, or the base where no name is.

  `settings.noise`: each leaf's entries shuffled, or drawn anew at its norm.
  Recorded: |cosine| of the patch and of what training changed in the target,
  and the norm of the latter.
  """
  def params(name):
    return scene.experts[name].params if name else scene.base.params
  def make(chosen):
    s = read(config, arm, patch, chosen)
    patch_ = procedures.task_patch(params(s.tuned), params(s.start),
                                   rank=s.rank or None, skip=s.skip)
    if s.noise != 'none':
      patch_ = {path: _noise(s.noise, path, x, scene.seed)
                for path, x in patch_.items()}
    model = procedures.apply_patch(params(s.target), patch_, scale=s.scale)
    whole = procedures.task_patch(params(s.target), scene.base.params)
    if not s.rank:
      made.update(cosine=abs(_cosine(patch_, whole)))
    made.update(moved=_dot(whole, whole)**0.5)
    end = scene.experts[s.target] if s.target else scene.base
    return model, end.stats
  made = {}
  chosen = merge_kinds.tuned(arm, scene, make)
  return merge_kinds.of_model(scene, make(chosen), chosen | made)


def _noise(kind, path, delta, seed):
  rng = np.random.default_rng([seed, *path.encode()])
  x = np.asarray(delta)
  if kind == 'shuffled':
    return jnp.asarray(rng.permutation(x.ravel()).reshape(x.shape))
  drawn = rng.standard_normal(x.shape)
  return jnp.asarray((drawn * np.linalg.norm(x) / np.linalg.norm(drawn)
                      ).astype(x.dtype))


def _dot(a, b):
  return float(sum(jax.tree.leaves({p: jnp.vdot(a[p], b[p]) for p in a
                                    if p in b})))


def _cosine(a, b):
  b = {p: x for p, x in b.items() if p in a}
  return _dot(a, b) / max((_dot(a, a) * _dot(b, b))**0.5, 1e-30)
