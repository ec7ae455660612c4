"""Writes taskvector.npz: task-vector merges as mergekit does them.

  python3.11 -m venv /tmp/ref
  /tmp/ref/bin/pip install mergekit==0.1.5 torch==2.13.0 numpy
  /tmp/ref/bin/python tests/golden/merge/make_taskvector.py

Runs mergekit's registered methods on float32 tensors of one, two and three axes
without ties of magnitudes. Where a method draws, torch.bernoulli is replaced by
`u < probability` with stored uniform numbers u, a tensor a model. Nothing of
kt_jax is used.
"""
from importlib import metadata
import json
import pathlib
import types

from mergekit.merge_methods import registry
import numpy as np
import torch

T = 3
SHAPES = {'vector': (23,), 'matrix': (12, 16), 'tensor': (4, 5, 3)}
WEIGHT = [0.6, 1.1, -0.4]
PER_MODEL = {'density': [0.3, 0.5, 1.0], 'gamma': [0.05, 0.1, 0.2],
             'epsilon': [0.1, 0.2, 0.15]}
# Name of the case -> method, shared settings, per-model settings changed.
CASES = {
    'task_arithmetic': ('task_arithmetic', {}, {}),
    'task_arithmetic_normalize': (
        'task_arithmetic', {'normalize': True, 'lambda': 0.7}, {}),
    'task_arithmetic_cancel': (
        'task_arithmetic', {'normalize': True},
        {'weight': [0.5, 0.5, -1.0]}),
    'ties': ('ties', {}, {}),
    'ties_sum': ('ties', {'normalize': False, 'lambda': 0.3}, {}),
    'ties_rescale': ('ties', {'rescale': True}, {}),
    'ties_full': ('ties', {}, {'density': [1.0, 1.0, 1.0]}),
    'ties_tiny': ('ties', {}, {'density': [0.0, 0.001, 0.2]}),
    'dare_linear': ('dare_linear', {}, {}),
    'dare_linear_plain': ('dare_linear', {'rescale': False}, {}),
    'dare_ties': ('dare_ties', {'lambda': 1.3}, {}),
    'dare_ties_normalize': ('dare_ties', {'normalize': True}, {}),
    'breadcrumbs': ('breadcrumbs', {}, {}),
    'breadcrumbs_rescale': ('breadcrumbs', {'rescale': True}, {}),
    'breadcrumbs_ties': ('breadcrumbs_ties', {'lambda': 0.8}, {}),
    'breadcrumbs_crowded': (
        'breadcrumbs', {}, {'density': [0.9, 0.8, 0.7],
                            'gamma': [0.3, 0.4, 0.01]}),
    'della': ('della', {}, {}),
    'della_plain': ('della', {'rescale': False, 'normalize': False}, {}),
    'della_linear': ('della_linear', {'lambda': 1.1}, {}),
}


def defaults(chosen):
  spec = chosen.spec.parameters
  return {p.name: p.default for p in spec if p.default is not None}


def main():
  rng = np.random.default_rng(0)
  out, settings = {}, {}
  for shape_name, shape in SHAPES.items():
    out[f'base/{shape_name}'] = rng.normal(size=shape).astype(np.float32)
    delta = 0.1 * rng.standard_t(3, size=(T,) + shape)
    out[f'models/{shape_name}'] = (
        out[f'base/{shape_name}'] + delta).astype(np.float32)
    out[f'uniform/{shape_name}'] = rng.random((T,) + shape, np.float32)

  for case, (name, shared, changed) in CASES.items():
    chosen = registry.get(name)
    known = {p.name for p in chosen.spec.parameters}
    given = {**defaults(chosen), **shared}
    models = {**PER_MODEL, 'weight': WEIGHT, **changed}
    models = {k: v for k, v in models.items() if k in known}
    settings[case] = {'method': name, **given, **models}
    for shape_name, shape in SHAPES.items():
      base = torch.tensor(out[f'base/{shape_name}'])
      stack = torch.tensor(out[f'models/{shape_name}'])
      # Models of density 1 draw nothing, the others in order.
      number = iter([t for t in range(T)
                     if 0 < models.get('density', [1] * T)[t] < 1])

      def bernoulli(p, u=out[f'uniform/{shape_name}'], number=number):
        drawn = torch.tensor(u[next(number)]).reshape(p.shape)
        return (drawn < p).to(p.dtype)
      saved, torch.bernoulli = torch.bernoulli, bernoulli
      entries = [types.SimpleNamespace(id=str(t), tensor=stack[t])
                 for t in range(T)]
      group = types.SimpleNamespace(
          base=types.SimpleNamespace(id='base', tensor=base), non_base=entries)
      per = {k: {str(t): v[t] for t in range(T)} for k, v in models.items()}
      try:
        merged = chosen.merge_group(group, **{**given, **per})
      finally:
        torch.bernoulli = saved
      out[f'out/{case}/{shape_name}'] = merged.numpy()

  out['settings'] = np.array(json.dumps(settings))
  out['versions'] = np.array(json.dumps({
      'mergekit': metadata.version('mergekit'),
      'torch': torch.__version__, 'numpy': np.__version__}))
  np.savez_compressed(pathlib.Path(__file__).parent / 'taskvector.npz', **out)


if __name__ == '__main__':
  main()
