"""Writes sequence.npz: losses on tokens and gradients as PyTorch has them.

  python3.11 -m venv /tmp/ref && /tmp/ref/bin/pip install torch==2.13.0 numpy
  /tmp/ref/bin/python tests/golden/losses/make_sequence.py

Float64 throughout; gradients are of the sum over tokens, by torch's autograd.
Nothing of kt_jax is used. adaptive_kl: sort, cumulative sum and gather, as the
public code has it; divergences of torch.distributions. taid: a cross entropy
with the interpolated logits less the target's entropy. Others: a loop over
tokens and plain lists of classes.
"""
import math
import pathlib

import numpy as np
import torch
from torch.distributions import Categorical
from torch.distributions import kl_divergence
from torch.nn import functional as F

B, S, V, U = 3, 4, 9, 12


def kl(z, u):
  return kl_divergence(Categorical(logits=z), Categorical(logits=u))


def each(fn, *arrays):
  """`[B, S]` of fn at each token."""
  rows = [torch.stack([fn(*(a[i, j] for a in arrays)) for j in range(S)])
          for i in range(B)]
  return torch.stack(rows)


def adaptive_kl(s, t, mu):
  p, index = F.softmax(t, -1).sort(dim=-1, descending=True)
  q = F.softmax(s, -1).detach().gather(-1, index)
  head = p.cumsum(-1) <= mu
  head[..., 0] = True
  gap = (p - q).abs()
  share = (gap * head).sum(-1) / gap.sum(-1)
  return share * kl(t, s) + (1 - share) * kl(s, t)


def taid(s, t, share):
  target = F.softmax((1 - share) * s.detach() + share * t, -1)
  return -(target * F.log_softmax(s, -1)).sum(-1) - Categorical(
      probs=target).entropy()


def top_kld(s, t, k, top, corrected):
  p, q = F.softmax(t, 0), F.softmax(s, 0)
  order = sorted(range(V), key=lambda v: -p[v].item())
  reverse = lambda v: q[v] * (q[v] / p[v]).log()
  forward = lambda v: p[v] * (p[v] / q[v]).log()
  first, second, sign = ((reverse, forward, 1) if top == 'reverse'
                         else (forward, reverse, -1))
  total = sum(first(v) for v in order[:k]) + sum(second(v) for v in order[k:])
  if corrected:
    total = total + sign * 2 * sum(p[v] - q[v] for v in order[:k])
  return total


def logit_swap(s, t, y):
  z = t.clone()
  mode = int(t.argmax())
  z[mode], z[y] = t[y], t[mode]
  return kl(z, s)


def uld(s, t):
  p = sorted(F.softmax(t, 0).tolist(), reverse=True)
  q = F.softmax(s, 0)
  order = sorted(range(V), key=lambda v: -q[v].item())
  return sum((q[order[i]] if i < V else q.new_zeros(())).sub(p[i]).abs()
             for i in range(U))


def evolution(s, t, y, valid, lam, hard, r, form):
  gold = F.one_hot(y, V)
  g = lam * gold + (1 - lam) * F.softmax(t, -1)
  difficulty = kl_divergence(Categorical(probs=g), Categorical(logits=s))
  found = sorted(difficulty[valid].tolist(), reverse=True)
  least = found[round(hard * len(found)) - 1]
  rows = []
  for i in range(B):
    for j in range(S):
      if not valid[i, j]:
        rows.append(0 * s[i, j].sum())
      elif difficulty[i, j] < least:
        rows.append(kl(t[i, j], s[i, j]))
      elif form == 'weight':
        rows.append(kl(t[i, j], s[i, j]) / (1 - r))
      elif form == 'mixture':
        mixed = (1 - r) * F.softmax(s[i, j], 0) + r * g[i, j].detach()
        rows.append(kl_divergence(Categorical(logits=t[i, j]),
                                  Categorical(probs=mixed)))
      else:
        rows.append(kl(t[i, j], (1 - r) * s[i, j] + r * g[i, j].detach().log()))
  return torch.stack(rows).reshape(B, S)


def minillm(s, t, y, valid, sampled, normalized, clip):
  log_q, log_p = F.log_softmax(s, -1), F.log_softmax(t, -1)
  rows = []
  for i in range(B):
    for j in range(S):
      if not valid[i, j]:
        rows.append(0 * s[i, j].sum())
        continue
      later = [n for n in range(j + 1, S) if valid[i, n]]
      gain = sum((log_q - log_p)[i, n, y[i, n]].item() for n in later)
      if normalized:
        gain /= max(1, len(later))
      mine = log_q[i, j, y[i, j]]
      w = (mine - (mine.detach() if sampled is None else sampled[i, j])).exp()
      # As a penalty: of the two, the one that costs more.
      both = gain * w, gain * w.clamp(1 - clip, 1 + clip)
      rows.append(kl(s[i, j], t[i, j]) + max(both, key=lambda x: x.item()))
  return torch.stack(rows).reshape(B, S)


def main():
  r = np.random.default_rng(5)
  student, teacher = 2 * r.normal(size=(2, B, S, V))
  other, labels = 2 * r.normal(size=(B, S, U)), r.integers(0, V, (B, S))
  sampled = np.log(r.uniform(0.05, 1, (B, S)))
  where = np.arange(S) < np.array([4, 2, 3])[:, None]
  out = dict(student_logits=student, teacher_logits=teacher, labels=labels,
             other_logits=other, sample_log_probs=sampled, where=where,
             versions=np.array([f'torch {torch.__version__}',
                                f'numpy {np.__version__}']))
  t, u, y, lp, m = map(torch.tensor, (teacher, other, labels, sampled, where))

  def record(name, fn):
    s = torch.tensor(student, requires_grad=True)
    value = fn(s)
    value.sum().backward()
    out[name] = value.detach().numpy()
    out[f'{name}.grad'] = s.grad.numpy()

  for mu in (0.5, 0.9):
    record(f'adaptive_kl/{mu}', lambda s: adaptive_kl(s, t, mu))
  for share in (0.4, 1.0):
    record(f'taid/{share}', lambda s: taid(s, t, share))
  for top in ('reverse', 'forward'):
    for corrected in (True, False):
      record(f'top_kld/{top}/{corrected}', lambda s: each(
          lambda s, t: top_kld(s, t, 3, top, corrected), s, t))
  record('logit_swap', lambda s: each(logit_swap, s, t, y))
  record('uld', lambda s: each(uld, s, u))
  for form in ('mixture', 'geometric', 'weight'):
    record(f'self_evolution_kd/{form}',
           lambda s: evolution(s, t, y, m, 0.5, 0.5, 0.3, form))
  record('minillm', lambda s: minillm(s, t, y, m, None, True, 0.2))
  record('minillm/sampled', lambda s: minillm(s, t, y, m, lp, True, 0.2))
  record('minillm/sum', lambda s: minillm(s, t, y, m, lp, False, math.inf))
  np.savez_compressed(pathlib.Path(__file__).parent / 'sequence.npz', **out)


if __name__ == '__main__':
  main()
