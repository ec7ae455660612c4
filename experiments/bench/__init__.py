"""Measures the library itself: start, loop, teachers, merges, searches.

It asserts nothing. Times on a shared machine move, so what is compared is
measured in turn, and ratios are taken within a turn. `bench.json` keeps every
number, `report.md` the tables.

A measure is a module of this package: dataclasses `Settings` and `Workload`, or
`Training` workloads, `measure(settings, workloads) -> (raw, table, metrics)`,
and, where nothing is trained, `check(settings, workloads)`.
"""
from collections.abc import Mapping
import dataclasses
import importlib
import os
import platform
from typing import Any

import jax
import numpy as np

from kt_jax import checkpoint
from kt_jax import core
from kt_jax import data
from kt_jax import train

MEASURES = ('startup', 'loop', 'distill', 'merge', 'population', 'lm_loss',
            'lm_step', 'generate')  # modules of this package


@dataclasses.dataclass(frozen=True)
class Spec:
  experiment: str = 'bench'
  paper: str = ''
  variant: str = ''
  measure: str = 'loop'
  settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  run: train.Training = train.Training()  # that trained workloads change
  # Name -> changes to run, or what the measure calls a workload.
  workloads: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def images(config, *, shape, count, labels):
  """Random images, a data set without files: 'experiments.bench:images'.

  Args:
    config: of the data.
    shape: `(H, W, C)`.
    count: of training examples.
    labels: how many there are.
  """
  del config
  rng = np.random.default_rng(0)
  make = lambda n: (rng.integers(0, 256, (n, *shape), np.uint8),
                    np.arange(n) % labels)
  return data.from_arrays('random images', dict(
      train=make(count), test=make(labels)))


def check(spec):
  module, settings, workloads = read(spec)
  if hasattr(module, 'check'):  # nothing is trained
    return module.check(settings, workloads)
  reports = []
  for name, work in workloads.items():
    *pretraining, own = train.check(work)
    reports += [r._replace(name=f'{name}, {r.name}') for r in pretraining]
    reports.append(own._replace(name=name))
  return reports


def run(spec, workdir):
  """Writes `bench.json` and `report.md`; returns the table and key numbers."""
  check(spec)
  workdir = checkpoint.open_workdir(workdir, core.spec.to_json(spec))
  if (workdir / 'bench.json').exists():
    return checkpoint.read_json(workdir / 'bench.json')['metrics']
  machine = dict(checkpoint.code_version(), system=platform.platform(),
                 device=jax.devices()[0].device_kind, cores=os.cpu_count(),
                 devices=jax.device_count(), load_before=_load())
  module, settings, workloads = read(spec)
  raw, table, metrics = module.measure(settings, workloads)
  machine['load_after'] = _load()
  table += (f'\nPython {machine["python"]}, jax {machine["jax"]}, flax '
            f'{machine["flax"]}; {machine["devices"]} x {machine["device"]}, '
            f'{machine["cores"]} cores, load average '
            f'{machine["load_before"]:.1f} before, '
            f'{machine["load_after"]:.1f} after.\n')
  metrics = dict(metrics, table=table)
  checkpoint.write_atomic(workdir / 'report.md',
                          f'# bench: {spec.measure}\n\n{table}')
  checkpoint.write_json(workdir / 'bench.json', dict(
      measure=spec.measure, machine=machine, metrics=metrics, raw=raw))
  return metrics


def read(spec):
  """`(module, settings, name -> workload)` of a spec.

  Raises:
    UserError: a measure, setting or key of a workload that does not exist.
  """
  if spec.measure not in MEASURES:
    raise core.UserError(core.nearest('measure', spec.measure, MEASURES))
  module = importlib.import_module(f'experiments.bench.{spec.measure}')
  settings = core.spec.build(module.Settings, spec.settings, 'config.settings')
  where = 'config.workloads.{}'.format
  if hasattr(module, 'Workload'):
    return module, settings, {
        name: core.spec.build(module.Workload, work, where(name))
        for name, work in spec.workloads.items()}
  return module, settings, {
      name: core.spec.change(spec.run, work, where(name))
      for name, work in spec.workloads.items()}


def _load():
  """Load average of the last minute, of everything on this machine."""
  return os.getloadavg()[0] if hasattr(os, 'getloadavg') else float('nan')
