"""Writes relation.npz: relation losses and gradients as PyTorch has them.

  python3.11 -m venv /tmp/ref && /tmp/ref/bin/pip install torch==2.13.0 numpy
  /tmp/ref/bin/python tests/golden/losses/make_relation.py

Float64 throughout; values are those of the whole batch for relations and one an
example for the rest, gradients are of their sum, by torch's autograd. Nothing
of kt_jax is used. Whose order of operations each follows:

  rkd_angle, rkd_distance, similarity_preserving
      the public code of the contrastive distillation benchmark: differences,
      normalize, bmm, smooth_l1
  ickd, class_relation, intra_layer_pattern, inter_layer_relation
      the authors' code: bmm and normalize; log of softmax, weight over its
      mean; cosine_similarity, InstanceNorm2d, max_pool2d, an image at a time
  cka      traces with the centring matrix; debiased: Song et al.'s estimator
  pkt, correlation_congruence, crd, info_nce, token_graph, partial_ranking
      loops over examples, pairs and negatives from the equations
"""
import math
import pathlib

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

B, D, E, N, TOKENS, NEIGHBOURS = 10, 6, 9, 7, 4, 3


def rkd_distance(s, t):
  def scaled(x):
    d = torch.cdist(x, x, compute_mode='donot_use_mm_for_euclid_dist')
    return d / d[d > 0].mean()
  return F.smooth_l1_loss(scaled(s), scaled(t))


def rkd_angle(s, t):
  def angle(x):
    u = F.normalize(x.unsqueeze(0) - x.unsqueeze(1), p=2, dim=2)
    return torch.bmm(u, u.transpose(1, 2)).view(-1)
  return F.smooth_l1_loss(angle(s), angle(t))


def similarity_preserving(s, t):
  g = lambda x: F.normalize(x.flatten(1) @ x.flatten(1).t())
  return ((g(s) - g(t))**2).sum() / len(s)**2


def pkt(s, t, include_self):
  def conditional(x, i):
    others = [j for j in range(len(x)) if include_self or j != i]
    k = torch.stack([(F.cosine_similarity(x[i], x[j], dim=0) + 1) / 2
                     for j in others])
    return k / k.sum()
  return sum(F.kl_div(conditional(s, i).log(), conditional(t, i),
                      reduction='sum') for i in range(len(s))) / len(s)


def correlation_congruence(s, t, kernel, gamma, order):
  def correlation(x, i, j):
    a, b = x[i] / x[i].norm(), x[j] / x[j].norm()
    if kernel == 'bilinear':
      return a @ b
    if order is None:
      return torch.exp(-gamma * ((a - b)**2).sum())
    return sum(math.exp(-2 * gamma) * (2 * gamma)**p / math.factorial(p)
               * (a @ b)**p for p in range(order + 1))
  return sum((correlation(s, i, j) - correlation(t, i, j))**2
             for i in range(len(s)) for j in range(len(s))) / len(s)**2


def ickd(layers):
  def one(s, t):
    flat = lambda x: x.flatten(2)
    gram = lambda x: F.normalize(torch.bmm(x, x.permute(0, 2, 1)), dim=2)
    gap = gram(flat(s)) - gram(flat(t))
    return (gap * gap).flatten(1).sum(1) / s.shape[1]
  return sum(one(s, t) for s, t in layers)


def hsic(k, l):
  h = torch.eye(len(k), dtype=k.dtype) - 1 / len(k)
  return torch.trace(k @ h @ l @ h) / (len(k) - 1)**2


def hsic_unbiased(k, l):
  n, one = len(k), torch.ones(len(k), dtype=k.dtype)
  k, l = k - torch.diag(torch.diag(k)), l - torch.diag(torch.diag(l))
  return (torch.trace(k @ l) + (one @ k @ one) * (one @ l @ one)
          / ((n - 1) * (n - 2)) - 2 / (n - 2) * (one @ k @ l @ one)) / (
              n * (n - 3))


def cka(s, t, debiased):
  k, l = s @ s.t(), t @ t.t()
  f = hsic_unbiased if debiased else hsic
  return 1 - f(k, l) / torch.sqrt(f(k, k) * f(l, l))


def crd(s, t, s_n, t_n, tau, examples, z_s, z_t):
  noise = s_n.shape[1] / examples
  def h(a, b, z):
    p = torch.exp((a @ b) / tau) / z
    return p / (p + noise)
  rows = []
  for i in range(len(s)):
    loss = -torch.log(h(s[i], t[i], z_s)) - torch.log(h(t[i], s[i], z_t))
    for n in range(s_n.shape[1]):
      loss = loss - torch.log(1 - h(s[i], t_n[i, n], z_s))
      loss = loss - torch.log(1 - h(t[i], s_n[i, n], z_t))
    rows.append(loss)
  return torch.stack(rows)


def info_nce(s, t, tau, symmetric):
  score = F.normalize(s) @ F.normalize(t).t() / tau
  own = torch.arange(len(s))
  loss = F.cross_entropy(score, own)
  if symmetric:
    loss = (loss + F.cross_entropy(score.t(), own)) / 2
  return loss


def token_graph(s, t, part, sigma):
  """`s`, `t`: `[B, N, D]`."""
  if part == 'inner':
    total = 0
    for i in range(len(s)):
      c = [torch.softmax(x[i] @ x[i].t() / x.shape[-1]**0.5, dim=1)
           for x in (s, t)]
      total = total + ((c[0] - c[1])**2).sum() / s.shape[1]
    return total / len(s)
  s, t = s.flatten(0, 1), t.flatten(0, 1)
  m = len(s)
  if part == 'globally':
    total = 0
    for i in range(m):
      score = torch.stack([F.cosine_similarity(s[i], t[j], dim=0) / 0.1
                           for j in range(m)])
      total = total - F.log_softmax(score, dim=0)[i]
    return total / m

  def graph(x):
    d = [[((x[i] - x[j])**2).sum() for j in range(m)] for i in range(m)]
    scale = sigma or float(np.median([float(d[i][j].detach())
                                      for i in range(m) for j in range(m)
                                      if i != j]))
    rows = [[torch.zeros((), dtype=x.dtype)] * m for _ in range(m)]
    for j in range(m):
      nearest = sorted((float(d[i][j].detach()), i)
                       for i in range(m) if i != j)
      for _, i in nearest[:NEIGHBOURS]:
        rows[i][j] = torch.exp(-d[i][j] / (2 * scale))
    return torch.stack([torch.stack(row) for row in rows])
  a_s, a_t = graph(s), graph(t)
  return sum(F.kl_div(F.log_softmax(a_s[i] / 0.1, dim=0),
                      F.softmax(a_t[i] / 0.1, dim=0), reduction='sum')
             for i in range(m)) / m


def intra_layer_pattern(layers):
  return torch.stack([
      sum((1 - F.cosine_similarity(s[b:b + 1], t[b:b + 1], dim=1)).sum()
          for s, t in layers) for b in range(len(layers[0][0]))])


def inter_layer_relation(layers):
  def grams(features):
    small = min(x.shape[-1] for x in features)
    features = [F.max_pool2d(x, x.shape[-1] // small) for x in features]
    features = [nn.InstanceNorm2d(x.shape[1])(x) for x in features]
    out = []
    for i in range(len(features)):
      for j in range(i + 1, len(features)):
        x, y = features[i][0].flatten(1), features[j][0].flatten(1)
        out.append(x @ y.t() / x.shape[1])
    return out
  rows = []
  for b in range(len(layers[0][0])):
    s = grams([s[b:b + 1] for s, _ in layers])
    t = grams([t[b:b + 1] for _, t in layers])
    rows.append(sum(((x - y)**2).sum() for x, y in zip(s, t)))
  return torch.stack(rows)


def class_relation(new, old, temperature):
  known = old.shape[1]
  preds = F.softmax(old / temperature, dim=-1)
  pseudo = F.softmax(new[:, :known] / temperature, dim=-1)
  weight = F.softmax(new / temperature, dim=-1)[:, :known].sum(-1, True)
  weight = weight / torch.mean(weight)
  return torch.mean(torch.sum(
      -torch.log(pseudo) * preds * temperature**2 * weight, dim=-1))


def partial_ranking(s, t, candidates, ranked, threshold, tau):
  rows = []
  for q in range(len(s)):
    mined = sorted(range(s.shape[1]), key=lambda j: -float(s[q, j].detach()))
    order = sorted(mined[:candidates], key=lambda j: -float(t[q, j]))
    good = [j for j in order
            if threshold is None or float(t[q, j]) > threshold][:ranked]
    loss = torch.zeros((), dtype=s.dtype)
    for r, j in enumerate(good):
      below = torch.stack([s[q, k] / tau for k in order[r:]])
      loss = loss + F.cross_entropy(below[None], torch.tensor([0]))
    rows.append(loss / max(len(good), 1))
  return torch.stack(rows)


def main():
  r = np.random.default_rng(0)
  sphere = lambda *shape: (lambda x: x / np.linalg.norm(
      x, axis=-1, keepdims=True))(r.normal(size=shape))
  data = {
      's': r.normal(size=(B, D)) + 0.5, 't': r.normal(size=(B, E)) - 1,
      't_same': r.normal(size=(B, D)),
      'unit_s': sphere(B, D), 'unit_t': sphere(B, D),
      'unit_s_n': sphere(B, N, D), 'unit_t_n': sphere(B, N, D),
      'tokens_s': r.normal(size=(4, TOKENS, D)),
      'tokens_t': r.normal(size=(4, TOKENS, D)),
      'map0_s': r.normal(size=(3, 8, 8, 3)),
      'map0_t': r.normal(size=(3, 8, 8, 3)),
      'map1_s': r.normal(size=(3, 4, 4, 5)),
      'map1_t': r.normal(size=(3, 4, 4, 5)),
      'map2_s': r.normal(size=(3, 2, 2, 4)),
      'map2_t': r.normal(size=(3, 2, 2, 4)),
      'novel_s': 3 * r.normal(size=(B, 7)),
      'novel_t': 3 * r.normal(size=(B, 4)),
      'score_s': 0.3 * r.normal(size=(B, 12)),
      'score_t': r.normal(size=(B, 12)),
  }
  out = dict(data, versions=np.array([f'torch {torch.__version__}',
                                      f'numpy {np.__version__}']))
  nchw = lambda x: x.permute(0, 3, 1, 2)
  c = {k: torch.tensor(v) for k, v in data.items()}

  def record(name, moving, fn):
    leaves = [c[m].clone().requires_grad_() for m in moving]
    value = fn(*leaves)
    value.sum().backward()
    out[name] = value.detach().numpy()
    for m, leaf in zip(moving, leaves):
      out[f'{name}.grad.{m}'] = leaf.grad.numpy()

  layers = ['map0_s', 'map1_s', 'map2_s']
  teachers = [nchw(c[n[:-1] + 't']) for n in layers]
  paired = lambda maps: list(zip(map(nchw, maps), teachers))
  t = c['t']
  record('rkd_distance', ['s'], lambda s: rkd_distance(s, t))
  record('rkd_angle', ['s'], lambda s: rkd_angle(s, t))
  record('similarity_preserving', ['s'], lambda s: similarity_preserving(s, t))
  for own in (0, 1):
    record(f'pkt/{own}', ['s'], lambda s: pkt(s, t, own))
    record(f'cka/{own}', ['s'], lambda s: cka(s, t, own))
    record(f'info_nce/{own}', ['s'], lambda s: info_nce(
        s, c['t_same'], 0.2, own))
  for kernel, gamma, order in (('gaussian', 0.4, 2), ('gaussian', 1.0, 4),
                               ('gaussian', 0.4, None), ('bilinear', 1.0, 1)):
    record(f'correlation_congruence/{kernel}/{gamma}/{order}', ['s'],
           lambda s: correlation_congruence(s, t, kernel, gamma, order))
  record('ickd', layers, lambda *m: ickd(paired(m)))
  record('intra_layer_pattern', layers,
         lambda *m: intra_layer_pattern(paired(m)))
  record('inter_layer_relation', layers,
         lambda *m: inter_layer_relation(paired(m)))
  for z_s, z_t in ((1.0, 1.0), (90.0, 60.0)):
    record(f'crd/{z_s}/{z_t}', ['unit_s', 'unit_t'], lambda s, u: crd(
        s, u, c['unit_s_n'], c['unit_t_n'], 0.3, 40, z_s, z_t))
  for part in ('local', 'globally', 'inner'):
    for sigma in (0.0, 4.0):
      record(f'token_graph/{part}/{sigma}', ['tokens_s'],
             lambda s: token_graph(s, c['tokens_t'], part, sigma))
  for tau in (1.0, 4.0):
    record(f'class_relation/{tau}', ['novel_s'],
           lambda s: class_relation(s, c['novel_t'], tau))
  for k, m, threshold in ((6, 3, None), (12, 12, 0.0), (16, 8, None)):
    record(f'partial_ranking/{k}/{m}/{threshold}', ['score_s'],
           lambda s: partial_ranking(s, c['score_t'], k, m, threshold, 0.07))
  np.savez_compressed(pathlib.Path(__file__).parent / 'relation.npz', **out)


if __name__ == '__main__':
  main()
