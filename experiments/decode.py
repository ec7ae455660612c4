"""Fuses models token by token: their likelihood of text, and their answers.

Nothing is trained here but the models of the pool.
"""
from collections.abc import Callable, Mapping
import dataclasses
import inspect
import itertools
from typing import Any

import jax
from jax import numpy as jnp
import numpy as np

from experiments import compare
from kt_jax import checkpoint
from kt_jax import core
from kt_jax import data
from kt_jax import fuse
from kt_jax import losses
from kt_jax import models
from kt_jax import train
from kt_jax.data import Text

_ROLES = dict(logits='logits', base='base_logits', experts='expert_logits',
              anti_experts='anti_expert_logits')


def _map():
  return dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Arm:
  """One model, or several fused token by token; models are keys of the pool,
  or checkpoints."""
  logits: tuple[str, ...] = ()  # of `logits`; a single one needs no `fuse`
  fuse: str | Callable[..., Any] = ''  # of kt_jax.fuse, or module:function
  base: str = ''  # of `base_logits`
  experts: tuple[str, ...] = ()  # of `expert_logits`
  anti_experts: tuple[str, ...] = ()  # as many as experts, or one
  # Setting -> values, of which the best by exact answers to validation prompts
  # is taken.
  tune: Mapping[str, tuple[Any, ...]] = _map()
  kw: Mapping[str, Any] = _map()  # settings of the function


@dataclasses.dataclass(frozen=True)
class Evaluation:
  batch_size: int = 64
  responses: int = 100  # prompts of each domain that are answered; 0 none
  # Of a response and the right one: {name: number}; module:function.
  judge: str | Callable[..., Any] = ''


@dataclasses.dataclass(frozen=True)
class Spec:
  experiment: str = 'decode'
  paper: str = ''
  variant: str = ''
  seed: int = 0  # of a run over `seeds`: set for each
  seeds: tuple[int, ...] = (0, 1, 2)  # of models of the pool with `by_seed`
  data: Text = Text()  # that fused models are measured on
  pool: Mapping[str, train.Pretrained] = _map()
  pretrain: train.Training | None = None  # common to the models of the pool
  pool_dir: str = ''
  arms: Mapping[str, Arm] = _map()
  baseline: str = ''
  claims: Mapping[str, compare.Claim] = _map()
  evaluate: Evaluation = Evaluation()


def check(spec):
  """Reports of what would be pretrained."""
  compare.check_claims(spec)
  info = data.abstract_text(spec.data)
  if spec.evaluate.responses and not spec.data.prompt:
    raise core.UserError('evaluate.responses needs prompts: set data.prompt.')
  names = []
  for name, arm in spec.arms.items():
    _function(name, arm)
    for model in _names(arm):
      train.check_vocabulary(model, train.pool.load(spec, model).info, info)
      names.append(model)
  return train.check_pool(spec, dict.fromkeys(names))


def run(spec, workdir):
  """Writes results.csv and report.md; returns the table."""
  workdir = checkpoint.open_workdir(workdir, core.spec.to_json(spec))
  done = train.finished(workdir)
  if done:
    return dict(table=done['table'])
  check(spec)
  splits = data.load_text(spec.data)
  tokenizer = data.tokenizer(spec.data.tokenizer)
  results = {}
  for seed in spec.seeds:
    for arm in spec.arms:
      path = workdir / 'runs' / f'{arm}-{seed}.json'
      if not path.exists():
        path.parent.mkdir(exist_ok=True)
        checkpoint.write_json(path, _measure(spec, arm, seed, splits,
                                             tokenizer, workdir))
      results[arm, seed] = checkpoint.read_json(path)
      print(f'{arm} {seed}', *(f'{k} {v:.4g}' for k, v in
                               results[arm, seed].items()))
  return dict(table=compare.finish(spec, results, workdir))


class _Fused:
  """The models of an arm, with settings."""

  def __init__(self, spec, name, seed, workdir, tokenizer, length):
    arm = spec.arms[name]
    names = _names(arm)
    seeded = dataclasses.replace(spec, seed=seed)
    trained = [train.pool.load(seeded, n, workdir, train.run) for n in names]
    self.arrays = [(t.params, t.stats) for t in trained]
    nets = [t.net for t in trained]
    fn = _function(name, arm)

    def call(logits, settings):
      """Fused logits, and the weights if the function returns them."""
      if fn is None:
        return logits[0], {}
      at = dict(zip(names, logits))
      arrays = {}
      for role, array in _ROLES.items():
        models_of = getattr(arm, role)
        if models_of and role == 'base':
          arrays[array] = at[models_of]
        elif models_of:
          arrays[array] = jnp.stack([at[n] for n in models_of])
          if role != 'logits' and len(arm.experts) == 1:
            arrays[array] = arrays[array][0]
      for array in ('anti_expert_logits',):
        if len(arm.anti_experts) == 1 < len(arm.experts):
          arrays[array] = jnp.broadcast_to(arrays[array],
                                           arrays['expert_logits'].shape)
      out = core.bind(fn, arrays, **settings)
      if not isinstance(out, tuple):
        return out, {}
      weight = out[1]
      return out[0], dict(weight=jnp.moveaxis(weight, 0, -1)
                          if len(arm.experts) > 1 else weight)
    self._call, self._nets, self._settings = call, nets, {}
    self._generator = lambda settings: train.Generator(
        nets, tokenizer, prompt=spec.data.prompt, length=length,
        batch_size=spec.evaluate.batch_size,
        choose=lambda logits, key: (lambda out: (
            jnp.argmax(out[0], -1).astype(jnp.int32), out[1]))(
                call(logits, settings)))
    self._batch_size = spec.evaluate.batch_size
    self._judge = spec.evaluate.judge

  def answers(self, rows, settings):
    generator = self._generator(settings)
    new = generator(self.arrays, rows)
    metrics = generator.exact(new, rows)
    if self._judge:
      judge = self._judge if callable(self._judge) else core.resolve(
          None, self._judge, 'function (evaluate.judge)')
      metrics |= generator.judged(new, rows, judge)
    if 'weight' in new.info:
      weight = new.info['weight'][new.where]
      metrics |= dict(weight_mean=float(weight.mean()),
                      weight_std=float(weight.std()))
    return metrics

  def likelihood(self, arrays, settings):
    @jax.jit
    def score(arrays, unused, batch):
      del unused
      batch = train.align(batch)
      logits = [models.call(net, params, stats, lambda m: m(
          batch['tokens'], batch['segments']))[0]
                for net, (params, stats) in zip(self._nets, arrays)]
      fused, _ = self._call(logits, settings)
      row = lambda x: jnp.sum(x, 1, where=batch['where'], dtype=jnp.float32)
      return dict(nll=row(losses.cross_entropy(fused, batch['labels'])),
                  right=row(jnp.argmax(fused, -1) == batch['labels']),
                  count=row(batch['where']))
    return train.likelihood(
        score, dict(params=self.arrays, stats=None), arrays, self._batch_size)


def _measure(spec, name, seed, splits, tokenizer, workdir):
  arm = spec.arms[name]
  fused = _Fused(spec, name, seed, workdir, tokenizer,
                 splits.info.input_shape[0])
  settings, tuned = dict(arm.kw), {}
  if arm.tune:
    rows = train.first_rows(splits.validation, spec.evaluate.responses)
    grid = [dict(zip(arm.tune, values)) for values in
            itertools.product(*arm.tune.values())]
    exact = [fused.answers(rows, settings | t)['exact'] for t in grid]
    tuned = grid[int(np.argmax(exact))]
    settings |= tuned
  metrics = fused.likelihood(splits.test, settings)
  if spec.evaluate.responses:
    metrics |= fused.answers(train.first_rows(
        splits.test, spec.evaluate.responses), settings)
  return metrics | {f'tuned_{k}': v for k, v in tuned.items()}


def _names(arm) -> list[str]:
  """Models of an arm, each once."""
  return list(dict.fromkeys([*arm.logits, *[arm.base] * bool(arm.base),
                             *arm.experts, *arm.anti_experts]))


def _function(name, arm):
  """The function of an arm; None for a single model."""
  where = f'config.arms.{name}'
  if not arm.fuse:
    if len(_names(arm)) != 1:
      raise core.UserError(f'{where}: several models need a function (fuse).')
    return None
  fn = arm.fuse if callable(arm.fuse) else core.resolve(
      fuse, arm.fuse, f'function ({where}.fuse)')
  parameters = inspect.signature(fn).parameters
  for setting in (*arm.kw, *arm.tune):
    if setting not in parameters:
      raise core.UserError(core.nearest(f'setting of {arm.fuse} ({where})',
                                        setting, parameters))
  for role, array in _ROLES.items():
    if bool(getattr(arm, role)) != (array in parameters):
      raise core.UserError(f'{where}.{role}: {arm.fuse} '
                           + ('needs it.' if array in parameters
                              else 'does not read it.'))
  return fn
