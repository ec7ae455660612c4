"""Writes operators.npz: merges as mergekit and float64 solvers have them.

  python3.11 -m venv /tmp/ref
  /tmp/ref/bin/pip install mergekit==0.1.5 torch==2.13.0 numpy scipy
  /tmp/ref/bin/python tests/golden/merge/make_operators.py

Inputs are float32 numbers, the arithmetic float64. Nothing of kt_jax is used.

  mergekit's own methods: slerp, nuslerp, multislerp, karcher, model_stock,
      nearswap, arcee_fusion, sce, passthrough
  from the equations: fisher, an entry at a time; regmean, least squares on the
      stacked inputs of all models (alpha 1), or a solve (other alphas);
      svd_truncate, scipy's svd; task_singular_vectors, scipy's svd and polar
      factors; multi_source_svd, triplets sorted in a list; karcher_limit, a
      minimum of the sum of squared angles found by scipy
"""
from importlib import metadata
import json
import pathlib

from mergekit.merge_methods import registry
from mergekit.merge_methods.base import TensorGroup
import numpy as np
import scipy
from scipy import linalg
from scipy import optimize
import torch

T, M, N = 3, 8, 6
WEIGHT = [0.5, 0.2, 0.3]


def mergekit(name, base, models, per=None, **settings):
  """One of its group methods, the base first unless None."""
  tensors = [torch.tensor(x) for x in models]
  if base is not None:
    tensors = [torch.tensor(base)] + tensors
  group = TensorGroup.from_tensors(
      tensors, base_index=None if base is None else 0)
  for key, values in (per or {}).items():
    keys = [e.id for e in group.non_base]
    settings[key] = type('Values', (dict,), {
        'values_for': lambda self, entries: [self[e.id] for e in entries]})(
            zip(keys, values))
  return registry.get(name).implementation(group, **settings).numpy()


def references(base, models, fisher, inputs):
  w2 = {'weight': [0.4, 1.2]}
  w3 = {'weight': WEIGHT}
  out = {}
  slerp = registry.get('slerp').implementation.__globals__['slerp']
  one = lambda x: torch.tensor(x)[None]
  for t in (0.0, 0.3, 1.0, 1.4):
    out[f'slerp/{t}'] = slerp(torch.tensor([t]), one(base), one(models[0]))
  out['slerp/line'] = slerp(torch.tensor([0.3]), one(base),
                            one(base + 1e-3 * models[0]))
  out['slerp/opposite'] = slerp(torch.tensor([0.3]), one(base), one(-2 * base))
  out = {k: v[0].numpy() for k, v in out.items()}
  for origin, start in (('base', base), ('zero', None)):
    for axis, flags in (('None', (False, True)), ('-1', (False, False)),
                        ('0', (True, False))):
      out[f'nuslerp/{origin}/{axis}'] = mergekit(
          'nuslerp', start, models[:2], w2, nuslerp_row_wise=flags[0],
          nuslerp_flatten=flags[1])
    for norm in (True, False):
      out[f'multislerp/{origin}/{int(norm)}'] = mergekit(
          'multislerp', start, models, {'weight': [0.5, 0.9, -0.3]},
          normalize_weights=norm)
  for steps in (1, 10):
    out[f'karcher/{steps}'] = mergekit('karcher', None, models, max_iter=steps)
  out['model_stock/None'] = mergekit('model_stock', base, models)
  out['model_stock/-1'] = mergekit('model_stock', base, models,
                                   filter_wise=True)
  for t in (0.05, 0.5):
    out[f'nearswap/{t}'] = mergekit('nearswap', base, models[:1], t=t)
  out['arcee_fusion'] = mergekit('arcee_fusion', base, models[:1])
  for topk in (1.0, 0.4, 0.0):
    out[f'sce/{topk}'] = mergekit('sce', base, models, select_topk=topk)
  group = TensorGroup.from_tensors([torch.tensor(models[0])])
  out['passthrough/0.3'] = registry.get('passthrough').implementation(
      group, scale={0: 0.3}).numpy()

  out['fisher'] = np.empty_like(base)
  for i in np.ndindex(base.shape):
    mass = [w * max(f[i], 1e-6) for w, f in zip(WEIGHT, fisher)]
    out['fisher'][i] = sum(m[i] * x for m, x in zip(models, mass)) / sum(mass)
  rows = np.concatenate([np.sqrt(w) * x for w, x in zip(WEIGHT, inputs)])
  goal = np.concatenate([np.sqrt(w) * x @ v
                         for w, x, v in zip(WEIGHT, inputs, models)])
  out['regmean/1.0'] = linalg.lstsq(rows, goal)[0]
  shrunk = [w * (0.5 * x.T @ x + 0.5 * np.diag(np.diag(x.T @ x)))
            for w, x in zip(WEIGHT, inputs)]
  out['regmean/0.5'] = linalg.solve(
      sum(shrunk), sum(g @ v for g, v in zip(shrunk, models)))

  svds = [linalg.svd(m - base, full_matrices=False) for m in models]
  out['svd_truncate/2'] = base + sum(
      w * (u[:, :2] * s[:2]) @ v[:2] for w, (u, s, v) in zip(WEIGHT, svds))
  r = min(base.shape) // T
  left, _ = linalg.polar(np.concatenate([u[:, :r] for u, _, _ in svds], 1))
  right, _ = linalg.polar(np.concatenate([v[:r] for _, _, v in svds]))
  values = np.concatenate([s[:r] for _, s, _ in svds])
  out['task_singular_vectors'] = base + left @ np.diag(values) @ right
  pool = sorted([(s[k], np.outer(u[:, k], v[k])) for u, s, v in svds
                 for k in range(len(s))], key=lambda x: -x[0])
  out['multi_source_svd/7'] = base + sum(s * o for s, o in pool[:7])

  units = [m.ravel() / linalg.norm(m) for m in models]
  def angles(c):
    x = sum(a * u for a, u in zip(c, units))
    x = x / linalg.norm(x)
    return sum(w * np.arccos(np.clip(x @ u, -1, 1))**2
               for w, u in zip(WEIGHT, units))
  best = optimize.minimize(angles, WEIGHT, tol=1e-14).x
  x = sum(a * u for a, u in zip(best, units))
  size = sum(w * linalg.norm(m) for w, m in zip(WEIGHT, models))
  out['karcher_limit'] = (size * x / linalg.norm(x)).reshape(base.shape)
  return out


def main():
  rng = np.random.default_rng(0)
  draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
  base = draw(M, N)
  # What the fine-tuned models share makes their angles acute.
  models = base + 0.7 * draw(M, N) + 0.8 * draw(T, M, N)
  fisher = np.square(draw(T, M, N)) * (draw(T, M, N) > 0)
  inputs = draw(T, 20, M)
  out = dict(base=base, models=models, fisher=fisher, inputs=inputs)
  wide = {k: v.astype(np.float64) for k, v in out.items()}
  out |= {f'out/{k}': v for k, v in references(**wide).items()}
  out['versions'] = np.array(json.dumps({
      'mergekit': metadata.version('mergekit'), 'torch': torch.__version__,
      'numpy': np.__version__, 'scipy': scipy.__version__}))
  np.savez_compressed(pathlib.Path(__file__).parent / 'operators.npz', **out)


if __name__ == '__main__':
  main()
