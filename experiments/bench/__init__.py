"""Measures the library itself: start, loop, teachers, merges, searches.

It asserts nothing. Times on a shared machine move, so what is compared is
measured in turn, and ratios are taken within a turn. `bench.json` keeps every
number, `report.md` the tables.
"""
import importlib
import json
import os
import platform

import jax
from ml_collections import config_dict
import numpy as np

from experiments.distill import check as check_distill
from experiments.pretrain import check as check_pretrain
from kt_jax import checkpoint
from kt_jax import core
from kt_jax import data

MEASURES = ('startup', 'loop', 'distill', 'merge', 'population', 'lm_loss',
            'lm_step', 'generate')  # modules of this package
OWN = ('measure', 'repeats', 'workloads', 'platform', 'threads', 'batches',
       'warmup', 'seconds', 'losses', 'maps', 'experts', 'genomes',
       'batch_sizes')


def images(config):
  """A data set without files: `data.name='experiments.bench:images'`.

  Random images; `data.shape` `(H, W, C)`, `data.count`, `data.labels`.
  """
  rng = np.random.default_rng(0)
  count, classes = config['count'], config['labels']
  make = lambda n: (rng.integers(0, 256, (n, *config['shape']), np.uint8),
                    np.arange(n) % classes)
  return data.from_arrays('random images', dict(
      train=make(count), test=make(classes)))


def check(config):
  if config.measure not in MEASURES:
    raise core.UserError(
        core.nearest('measure', config.measure, MEASURES))
  module = _module(config)
  if hasattr(module, 'check'):  # no supervised runs
    return module.check(config)
  found = []
  for name, work in _workloads(config).items():
    check_work = check_distill if 'teachers' in work else check_pretrain
    *others, own = check_work(work)
    found += [r._replace(name=f'{name}, {r.name}') for r in others]
    found.append(own._replace(name=name))
  return found


def run(config, workdir):
  """Writes `bench.json` and `report.md`; returns the table and key numbers."""
  check(config)
  workdir = checkpoint.open_workdir(workdir, json.loads(config.to_json()))
  if (workdir / 'bench.json').exists():
    return checkpoint.read_json(workdir / 'bench.json')['metrics']
  machine = dict(checkpoint.code_version(), system=platform.platform(),
                 device=jax.devices()[0].device_kind, cores=os.cpu_count(),
                 devices=jax.device_count(), load_before=_load())
  raw, table, metrics = _module(config).measure(
      config, _workloads(config))
  machine['load_after'] = _load()
  table += (f'\nPython {machine["python"]}, jax {machine["jax"]}, flax '
            f'{machine["flax"]}; {machine["devices"]} x {machine["device"]}, '
            f'{machine["cores"]} cores, load average '
            f'{machine["load_before"]:.1f} before, '
            f'{machine["load_after"]:.1f} after.\n')
  metrics = dict(metrics, table=table)
  checkpoint.write_atomic(workdir / 'report.md',
                          f'# bench: {config.measure}\n\n{table}')
  checkpoint.write_json(workdir / 'bench.json', dict(
      measure=config.measure, machine=machine, metrics=metrics, raw=raw))
  return metrics


def _module(config):
  return importlib.import_module(f'experiments.bench.{config.measure}')


def _workloads(config):
  """Name -> config of a supervised run."""
  found = {}
  for name, changes in config.workloads.items():
    work = config_dict.ConfigDict({
        k: v for k, v in config.to_dict().items() if k not in OWN})
    work.update(changes.to_dict())
    found[name] = work.lock()
  return found


def _load():
  """Load average of the last minute: who else was at work."""
  return os.getloadavg()[0] if hasattr(os, 'getloadavg') else float('nan')
