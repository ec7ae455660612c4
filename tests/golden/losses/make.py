"""Writes losses.npz: losses and gradients as PyTorch has them.

  python3.11 -m venv /tmp/ref && /tmp/ref/bin/pip install torch==2.13.0 numpy
  /tmp/ref/bin/python tests/golden/losses/make.py

Float64 throughout; gradients are of the sum, by torch's autograd. The masks of
partitioned_kd are made by a loop over the examples. Nothing of kt_jax is used.
"""
import pathlib

import numpy as np
import torch
from torch.nn import functional as F

B, K, T = 12, 7, 3
TEMPERATURES = (1.0, 4.0)


def kl(student, target, temperature):
  """`[B]`, times temperature squared, by torch's own divergence."""
  return temperature**2 * F.kl_div(
      F.log_softmax(student / temperature, dim=-1),
      F.softmax(target / temperature, dim=-1), reduction='none').sum(-1)


def choose(initial, teachers, labels):
  """`[B, K]` logits of the surest model; `labels` None: unsupervised."""
  rows = []
  for i in range(B):
    best, sureness = None, -1.0
    for model in (initial, *teachers):
      p = torch.softmax(model[i], 0)
      sure = float(p.max() if labels is None else p[labels[i]])
      if sure > sureness:
        best, sureness = model[i], sure
    rows.append(best)
  return torch.stack(rows)


def main():
  r = np.random.default_rng(0)
  student, initial = 3 * r.normal(size=(2, B, K))
  teachers = 3 * r.normal(size=(T, B, K))
  labels = r.integers(0, K, B)
  soft = r.dirichlet(np.ones(K), B)
  out = dict(student_logits=student, initial_logits=initial,
             teacher_logits=teachers, labels=labels, soft_labels=soft,
             versions=np.array([f'torch {torch.__version__}',
                                f'numpy {np.__version__}']))
  i, t, y, q = map(torch.tensor, (initial, teachers, labels, soft))

  def record(name, fn):
    s = torch.tensor(student, requires_grad=True)
    value = fn(s)
    value.sum().backward()
    out[name] = value.detach().numpy()
    out[f'{name}.grad'] = s.grad.numpy()

  for a in (0.0, 0.1):
    record(f'cross_entropy/hard/{a}', lambda s: F.cross_entropy(
        s, y, reduction='none', label_smoothing=a))
    record(f'cross_entropy/soft/{a}', lambda s: F.cross_entropy(
        s, q, reduction='none', label_smoothing=a))
  for tau in TEMPERATURES:
    record(f'kd/{tau}', lambda s: kl(s, t[0], tau))
    for count in (1, T):
      for labels_ in (y, None):
        target = choose(i, t[:count], labels_)
        how = 'unsupervised' if labels_ is None else 'supervised'
        record(f'partitioned_kd/{count}/{how}/{tau}',
               lambda s: kl(s, target, tau))
  np.savez_compressed(pathlib.Path(__file__).parent / 'losses.npz', **out)


if __name__ == '__main__':
  main()
