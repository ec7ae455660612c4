"""Models fused token by token: their likelihood of text, and their answers.

Nothing is trained here but the members of the config.
"""
import copy
import inspect
import itertools
import json

import jax
from jax import numpy as jnp
import numpy as np

from experiments import compare
from experiments import language_measure
from experiments import members
from experiments import pretrain_lm
from kt_jax import checkpoint
from kt_jax import core
from kt_jax import fuse
from kt_jax import losses
from kt_jax import models
from kt_jax import train

_ROLES = dict(logits='logits', base='base_logits', experts='expert_logits',
              anti_experts='anti_expert_logits')


def check(config):
  compare.check_claims(config)
  info, _ = pretrain_lm.abstract(config)
  if config.evaluate.responses and not config.data.prompt:
    raise core.UserError('evaluate.responses needs prompts: set data.prompt.')
  names = []
  for arm, spec in config.arms.items():
    _function(arm, spec)
    for name in _names(spec):
      train.check_vocabulary(name, members.load(config, name).info, info)
      names.append(name)
  return members.check(config, [n for n in dict.fromkeys(names)
                                if n in config.members])


def run(config, workdir):
  """Writes results.csv and report.md; returns the table."""
  check(config)
  workdir = checkpoint.open_workdir(workdir, json.loads(config.to_json()))
  splits, tokenizer = pretrain_lm.load(config)
  found = {}
  for seed in config.seeds:
    for arm in config.arms:
      path = workdir / 'runs' / f'{arm}-{seed}.json'
      if not path.exists():
        path.parent.mkdir(exist_ok=True)
        checkpoint.write_json(path, _measure(config, arm, seed, splits,
                                             tokenizer, workdir))
      found[arm, seed] = checkpoint.read_json(path)
      print(f'{arm} {seed}', *(f'{k} {v:.4g}' for k, v in
                               found[arm, seed].items()))
  return dict(table=compare.write(config, found, workdir))


class _Fused:
  """The models of an arm, with settings."""

  def __init__(self, config, arm, seed, workdir, tokenizer, length):
    spec = config.arms[arm]
    own = copy.deepcopy(config).unlock()
    own.seed = seed
    names = _names(spec)
    trained = [members.load(own, n, workdir) for n in names]
    self.arrays = [(t.params, t.stats) for t in trained]
    nets = [t.net for t in trained]
    fn = _function(arm, spec)

    def call(logits, settings):
      """Fused logits, and the weights if the function says them."""
      if fn is None:
        return logits[0], {}
      at = dict(zip(names, logits))
      pool = {}
      for role, array in _ROLES.items():
        who = spec[role]
        if who and role == 'base':
          pool[array] = at[who]
        elif who:
          pool[array] = jnp.stack([at[n] for n in who])
          if role != 'logits' and len(spec.experts) == 1:
            pool[array] = pool[array][0]
      for array in ('anti_expert_logits',):
        if len(spec.anti_experts) == 1 < len(spec.experts):
          pool[array] = jnp.broadcast_to(pool[array],
                                         pool['expert_logits'].shape)
      out = core.bind(fn, pool, **settings)
      if not isinstance(out, tuple):
        return out, {}
      weight = out[1]
      return out[0], dict(weight=jnp.moveaxis(weight, 0, -1)
                          if len(spec.experts) > 1 else weight)
    self._call, self._nets, self._settings = call, nets, {}
    self._generator = lambda settings: language_measure.Generator(
        nets, tokenizer, prompt=config.data.prompt, length=length,
        batch_size=config.evaluate.batch_size,
        choose=lambda logits, key: (lambda out: (
            jnp.argmax(out[0], -1).astype(jnp.int32), out[1]))(
                call(logits, settings)))
    self._batch_size = config.evaluate.batch_size
    self._judge = config.evaluate.judge

  def answers(self, rows, settings):
    generator = self._generator(settings)
    new = generator(self.arrays, rows)
    metrics = generator.exact(new, rows)
    if self._judge:
      metrics |= generator.judged(new, rows, core.resolve(
          None, self._judge, 'function (evaluate.judge)'))
    if 'weight' in new.info:
      weight = new.info['weight'][new.where]
      metrics |= dict(weight_mean=float(weight.mean()),
                      weight_std=float(weight.std()))
    return metrics

  def likelihood(self, arrays, settings):
    @jax.jit
    def score(members, stats, batch):
      del stats
      pool = train.align(batch)
      logits = [models.call(net, *a, lambda m: m(
          pool['tokens'], pool['segments']))[0]
                for net, a in zip(self._nets, members)]
      fused, _ = self._call(logits, settings)
      row = lambda x: jnp.sum(x, 1, where=pool['where'], dtype=jnp.float32)
      return dict(nll=row(losses.cross_entropy(fused, pool['labels'])),
                  right=row(jnp.argmax(fused, -1) == pool['labels']),
                  count=row(pool['where']))
    return language_measure.likelihood(
        score, dict(params=self.arrays, stats=None), arrays, self._batch_size)


def _measure(config, arm, seed, splits, tokenizer, workdir):
  spec = config.arms[arm]
  fused = _Fused(config, arm, seed, workdir, tokenizer,
                 splits.info.input_shape[0])
  settings = spec.kw.to_dict()
  tuned = {}
  if spec.tune:
    rows = language_measure.first_rows(splits.validation,
                                       config.evaluate.responses)
    tried = [dict(zip(spec.tune, values)) for values in
             itertools.product(*spec.tune.values())]
    right = [fused.answers(rows, settings | t)['exact'] for t in tried]
    tuned = tried[int(np.argmax(right))]
    settings |= tuned
  metrics = fused.likelihood(splits.test, settings)
  if config.evaluate.responses:
    metrics |= fused.answers(language_measure.first_rows(
        splits.test, config.evaluate.responses), settings)
  return metrics | {f'tuned_{k}': v for k, v in tuned.items()}


def _names(spec) -> list[str]:
  """Members of an arm, each once."""
  return list(dict.fromkeys([*spec.logits, *[spec.base] * bool(spec.base),
                             *spec.experts, *spec.anti_experts]))


def _function(arm, spec):
  """The function of an arm; None for a single model."""
  where = f'config.arms.{arm}'
  if not spec.fuse:
    if len(_names(spec)) != 1:
      raise core.UserError(f'{where}: several models need a function (fuse).')
    return None
  fn = core.resolve(fuse, spec.fuse, f'function ({where}.fuse)')
  takes = inspect.signature(fn).parameters
  for setting in (*spec.kw, *spec.tune):
    if setting not in takes:
      raise core.UserError(core.nearest(f'setting of {spec.fuse} ({where})',
                                        setting, takes))
  for role, array in _ROLES.items():
    if bool(spec[role]) != (array in takes):
      raise core.UserError(f'{where}.{role}: {spec.fuse} '
                           + ('needs it.' if array in takes
                              else 'does not read it.'))
  return fn
