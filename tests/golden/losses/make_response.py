"""Writes response.npz: losses on logits and gradients as PyTorch has them.

  python3.11 -m venv /tmp/ref && /tmp/ref/bin/pip install torch==2.13.0 numpy
  /tmp/ref/bin/python tests/golden/losses/make_response.py

Float64 throughout; gradients are of the sum over examples, of relations (dist,
mlkd, cwtm, uskd) of the batch value itself, by torch's autograd. Nothing
of kt_jax is used. What is followed: dkd, mlkd, logit standardisation: the order
of operations of the papers' public code (sums of probabilities; matrix
products; the sample's deviation). dist: torch.corrcoef, row by row and column
by column. nkd, uskd: a loop over examples that deletes the true class. jsd,
skew, reverse and balanced divergences: torch.distributions. Others: the
function of torch.nn.functional that the paper names.
"""
import pathlib

import numpy as np
import torch
from torch.distributions import Categorical
from torch.distributions import kl_divergence
from torch.nn import functional as F

B, K = 6, 7


def at(z, tau=1.0):
  return Categorical(logits=z / tau)


def mix(p, q, share):
  return Categorical(probs=share * p.probs + (1 - share) * q.probs)


def dkd(s, t, y, tau, alpha, beta):
  true = F.one_hot(y, K).bool()
  def two(z):
    p = F.softmax(z / tau, dim=1)
    return torch.cat([(p * true).sum(1, keepdim=True),
                      (p * ~true).sum(1, keepdim=True)], dim=1)
  def rest(z, fn):
    return fn(z / tau - 1000.0 * true, dim=1)
  target = F.kl_div(two(s).log(), two(t), reduction='none').sum(1)
  others = F.kl_div(rest(s, F.log_softmax), rest(t, F.softmax),
                    reduction='none').sum(1)
  return tau**2 * (alpha * target + beta * others)


def without(z, i):
  return torch.cat([z[:i], z[i + 1:]])


def nkd(s, t, y, tau, gamma):
  out = []
  for z, u, k in zip(s, t, y):
    target = F.softmax(u, 0)[k] * F.cross_entropy(z, k)
    rest = F.cross_entropy(without(z, k) / tau,
                           F.softmax(without(u, k) / tau, 0))
    out.append(target + gamma * tau**2 * rest)
  return torch.stack(out)


def uskd(s, w, y, alpha, beta, mu):
  sure = torch.stack([F.softmax(z, 0)[k] ** 2 for z, k in zip(s, y)]).detach()
  total = 0
  for z, u, k, square in zip(s, w, y, sure):
    score = (F.softmax(without(z, k), 0) + F.softmax(without(u, k), 0)).tolist()
    order = sorted(range(K - 1), key=lambda i: -score[i])
    soft = torch.zeros(K - 1, dtype=z.dtype)
    for place, i in enumerate(order, start=1):
      soft[i] = 1 / place
    total += alpha * (1 + square - sure.mean()) * F.cross_entropy(z, k)
    total += beta * F.cross_entropy(without(z, k), soft / soft.sum())
    total += mu * F.cross_entropy(u, k, label_smoothing=0.1)
  return total / len(s)


def mlkd(s, t, temperatures):
  total = 0
  for tau in temperatures:
    q, p = F.softmax(s / tau, dim=1), F.softmax(t / tau, dim=1)
    total += tau**2 * F.kl_div(q.log(), p, reduction='batchmean')
    total += ((torch.mm(p, p.T) - torch.mm(q, q.T))**2).sum() / len(p)
    total += ((torch.mm(p.T, p) - torch.mm(q.T, q))**2).sum() / p.shape[1]
  return total


def dist(s, t, tau, beta, gamma):
  q, p = F.softmax(s / tau, dim=1), F.softmax(t / tau, dim=1)
  def apart(a, b):
    return torch.stack([1 - torch.corrcoef(torch.stack(pair))[0, 1]
                        for pair in zip(a, b)]).mean()
  return tau**2 * (beta * apart(q, p) + gamma * apart(q.T, p.T))


def cwtm(s, t, y):
  top = F.softmax(t, dim=1).max(1).values
  return (top / top.sum() * F.cross_entropy(s, y, reduction='none')).sum()


def bd_kd(s, t, tau, delta, flipped):
  out = []
  for z, u in zip(s, t):
    q, p = at(z, tau), at(u, tau)
    surer = bool(q.entropy() < p.entropy()) != flipped
    a, b = (delta, 1) if surer else (1, delta)
    out.append(tau**2 * (a * kl_divergence(p, q) + b * kl_divergence(q, p)))
  return torch.stack(out)


def label_smoothing_kd(s, y, tau, a):
  out = []
  for z, k in zip(s, y):
    u = torch.full((K,), (1 - a) / (K - 1), dtype=z.dtype)
    u[k] = a
    u = u**(1 / tau)
    out.append(tau**2 * F.kl_div(F.log_softmax(z / tau, 0), u / u.sum(),
                                 reduction='sum'))
  return torch.stack(out)


def standardized(s, t, tau):
  """As published: the sample's deviation, divided by K - 1."""
  n = lambda z: (z - z.mean(-1, keepdim=True)) / z.std(-1, keepdim=True)
  return tau**2 * kl_divergence(at(n(t), tau), at(n(s), tau))


def main():
  r = np.random.default_rng(1)
  student, teacher = 2 * r.normal(size=(2, B, K))
  weak, aspects = r.normal(size=(B, K)), r.uniform(size=(B, K))
  labels = r.integers(0, K, B)
  out = dict(student_logits=student, teacher_logits=teacher,
             student_weak_logits=weak, teacher_aspects=aspects, labels=labels,
             versions=np.array([f'torch {torch.__version__}',
                                f'numpy {np.__version__}']))
  t, w, yes, y = map(torch.tensor, (teacher, weak, aspects, labels))

  def record(name, fn):
    s = torch.tensor(student, requires_grad=True)
    value = fn(s)
    value.sum().backward()
    out[name] = value.detach().numpy()
    out[f'{name}.grad'] = s.grad.numpy()

  record('cwtm', lambda s: cwtm(s, t, y))
  record('uskd', lambda s: uskd(s, w, y, 1.0, 0.1, 0.005))
  record('mlkd', lambda s: mlkd(s, t, (2, 3, 4, 5, 6)))
  record('multi_aspect', lambda s: F.binary_cross_entropy_with_logits(
      s, yes, reduction='none').mean(-1))
  record('squared_error_logit', lambda s: 0.5 * (
      F.nll_loss(F.log_softmax(s, 1), y, reduction='none')
      - F.nll_loss(F.log_softmax(t, 1), y, reduction='none'))**2)
  record('total_variation', lambda s: 0.5 * F.l1_loss(
      F.softmax(s, 1), F.softmax(t, 1), reduction='none').sum(1))
  for tau in (1.0, 3.0):
    record(f'reverse_kl/{tau}', lambda s: tau**2 * kl_divergence(
        at(s, tau), at(t, tau)))
    record(f'skew_kl/{tau}', lambda s: tau**2 * kl_divergence(
        at(t, tau), mix(at(t, tau), at(s, tau), 0.1)))
    record(f'skew_reverse_kl/{tau}', lambda s: tau**2 * kl_divergence(
        at(s, tau), mix(at(s, tau), at(t, tau), 0.1)))
    for beta in (0.1, 0.5):
      def jsd(s):
        p, q = at(t, tau), at(s, tau)
        m = mix(p, q, beta)
        return tau**2 * (beta * kl_divergence(p, m)
                         + (1 - beta) * kl_divergence(q, m))
      record(f'jsd/{tau}/{beta}', jsd)
    for gate in ('calibrating', 'flipped'):
      record(f'bd_kd/{tau}/{gate}',
             lambda s: bd_kd(s, t, tau, 2.0, gate == 'flipped'))
    record(f'dkd/{tau}', lambda s: dkd(s, t, y, tau, 1.0, 8.0))
    record(f'nkd/{tau}', lambda s: nkd(s, t, y, tau, 1.5))
    record(f'dist/{tau}', lambda s: dist(s, t, tau, 2.0, 1.0))
    record(f'label_smoothing_kd/{tau}',
           lambda s: label_smoothing_kd(s, y, tau, 0.99))
    record(f'logit_standardized_kd/{tau}', lambda s: standardized(s, t, tau))
  np.savez_compressed(pathlib.Path(__file__).parent / 'response.npz', **out)


if __name__ == '__main__':
  main()
