"""Losses on relations."""
import math

import jax
import numpy as np
from scipy.spatial import distance

from losses_cases.reference.feature import as_list
from losses_cases.reference.feature import per_example
from losses_cases.reference.feature import unit
from losses_cases.reference.response import kl
from losses_cases.reference.response import log_softmax
from losses_cases.reference.response import softmax


def huber(x):
  return np.where(np.abs(x) < 1, x**2 / 2, np.abs(x) - 0.5)


def hsic(k, m):
  """Song et al.'s unbiased estimator, up to a factor."""
  n = len(k)
  k, m = k - np.diag(np.diag(k)), m - np.diag(np.diag(m))
  return ((k * m).sum() + k.sum() * m.sum() / ((n - 1) * (n - 2))
          - 2 / (n - 2) * k.sum(0) @ m.sum(0))


def cka(student_features, teacher_features, *, debiased=False):
  grams = [x @ x.T for x in map(per_example, (student_features,
                                              teacher_features))]
  if debiased:
    k, m = grams
    return 1 - hsic(k, m) / np.sqrt(hsic(k, k) * hsic(m, m))
  n = len(grams[0])
  h = np.eye(n) - 1 / n
  k, m = (h @ g @ h / np.linalg.norm(h @ g @ h) for g in grams)
  return n * ((k - m)**2).sum(1) / 2


def class_relation(student_logits, teacher_logits, *, frozen, temperature=4.0,
                   detach=False):
  known = teacher_logits.shape[-1]
  r = softmax(teacher_logits / temperature)
  z = (frozen['student_logits'] if detach else student_logits) / temperature
  w = softmax(z)[:, :known].sum(-1)
  log_q = log_softmax(student_logits[:, :known] / temperature)
  return temperature**2 * w / w.mean() * -(r * log_q).sum(-1)


def correlation_congruence(student_features, teacher_features, *,
                           kernel='gaussian', gamma=0.4, order=2):
  def c(x):
    e = unit(per_example(x))
    if kernel == 'bilinear':
      return e @ e.T
    if order is None:
      return np.exp(-gamma * distance.cdist(e, e, 'sqeuclidean'))
    return np.exp(-2 * gamma) * sum((2 * gamma * (e @ e.T))**p
                                    / math.factorial(p)
                                    for p in range(order + 1))
  return ((c(student_features) - c(teacher_features))**2).mean(-1)


def crd(student_features, teacher_features, student_negatives,
        teacher_negatives, *, temperature=0.07, examples=50000,
        student_normalizer=1.0, teacher_normalizer=1.0):
  noise = student_negatives.shape[1] / examples
  def one_way(anchor, positive, negatives, z):
    h = lambda score: np.exp(score / temperature) / (
        np.exp(score / temperature) + z * noise)
    return (-np.log(h((anchor * positive).sum(-1)))
            - np.log(1 - h(np.einsum('bnd,bd->bn', negatives, anchor))).sum(-1))
  return (one_way(student_features, teacher_features, teacher_negatives,
                  student_normalizer)
          + one_way(teacher_features, student_features, student_negatives,
                    teacher_normalizer))


def ickd(student_features, teacher_features, *, normalize=True):
  def gram(x):
    f = x.reshape(len(x), -1, x.shape[-1])
    g = f.swapaxes(1, 2) @ f
    return unit(g) if normalize else g
  return sum(per_example((gram(s) - gram(t))**2).sum(-1) / s.shape[-1]
             for s, t in zip(as_list(student_features),
                             as_list(teacher_features)))


def info_nce(student_features, teacher_features, *, temperature=0.07,
             symmetric=False, normalize=True):
  s, t = map(per_example, (student_features, teacher_features))
  if normalize:
    s, t = unit(s), unit(t)
  score = s @ t.T / temperature
  ways = [score, score.T] if symmetric else [score]
  return -np.mean([np.diag(log_softmax(x)) for x in ways], axis=0)


def inter_layer_relation(student_features, teacher_features, *, eps=1e-5):
  def standard(maps):
    h, w = (min(x.shape[axis] for x in maps) for axis in (1, 2))
    for x in maps:
      blocks = [x[:, i::x.shape[1] // h, j::x.shape[2] // w]
                for i in range(x.shape[1] // h)
                for j in range(x.shape[2] // w)]
      f = np.max(blocks, axis=0).reshape(len(x), h * w, -1)
      yield (f - f.mean(1, keepdims=True)) / np.sqrt(
          f.var(1, keepdims=True) + eps)
  s, t = (list(standard(maps)) for maps in (student_features,
                                            teacher_features))
  gram = lambda x, y: x.swapaxes(1, 2) @ y / x.shape[1]
  return sum(per_example((gram(s[i], s[j]) - gram(t[i], t[j]))**2).sum(-1)
             for i in range(len(s)) for j in range(i))


def intra_layer_pattern(student_features, teacher_features):
  return sum(per_example(1 - (unit(s) * unit(t)).sum(-1)).sum(-1)
             for s, t in zip(as_list(student_features),
                             as_list(teacher_features)))


def partial_ranking(student_logits, teacher_logits, *, candidates=16, ranked=8,
                    threshold=None, temperature=0.07):
  values = []
  for s, t in zip(student_logits, teacher_logits):
    hardest = np.argsort(-s)[:candidates]
    order = hardest[np.argsort(-t[hardest])]
    winners = [r for r in range(min(ranked, len(order)))
               if threshold is None or t[order[r]] > threshold]
    nll = [-log_softmax(s[order[r:]] / temperature)[0] for r in winners]
    values.append(np.mean(nll) if nll else 0.0)
  return np.array(values)


def pkt(student_features, teacher_features, *, include_self=False):
  def conditional(x):
    k = (1 + unit(per_example(x)) @ unit(per_example(x)).T) / 2
    if not include_self:
      np.fill_diagonal(k, 0)
    return k / k.sum(-1, keepdims=True)
  p, q = conditional(teacher_features), conditional(student_features)
  return (p * np.log((p + 1e-7) / (q + 1e-7))).sum(-1)


def rkd_angle(student_features, teacher_features):
  def cosines(x):
    x = per_example(x)
    e = x[None] - x[:, None]
    e /= np.where(np.eye(len(x)) == 1, 1, np.linalg.norm(e, axis=-1))[..., None]
    return np.einsum('ijd,ikd->ijk', e, e)
  gap = cosines(student_features) - cosines(teacher_features)
  return huber(gap).mean((1, 2))


def rkd_distance(student_features, teacher_features):
  def relative(x):
    d = distance.cdist(per_example(x), per_example(x))
    return d / d[d > 0].mean()
  return huber(relative(student_features) - relative(teacher_features)).mean(-1)


def similarity_preserving(student_features, teacher_features):
  similarity = lambda x: unit(per_example(x) @ per_example(x).T)
  return sum(((similarity(s) - similarity(t))**2).mean(-1)
             for s, t in zip(as_list(student_features),
                             as_list(teacher_features)))


def token_graph(student_features, teacher_features, student_embeddings=None,
                teacher_embeddings=None, key=None, *, frozen, rows,
                local_weight=1.0, global_weight=1.0, inner_weight=1.0,
                neighbors=8, tokens=0, sigma=None, local_temperature=0.1,
                temperature=0.1):
  flat = lambda x: x.reshape(len(x), -1, x.shape[-1])
  def sampled(x):
    if not tokens:
      return flat(x)
    places = [jax.random.permutation(jax.random.fold_in(key, row),
                                     flat(x).shape[1])[:tokens] for row in rows]
    return np.stack([x_i[np.asarray(at)] for x_i, at in zip(flat(x), places)])
  def graph(x, fixed):
    x, fixed = (np.concatenate(sampled(v)) for v in (x, fixed))
    square = distance.cdist(x, x, 'sqeuclidean')
    pairs = distance.pdist(fixed, 'sqeuclidean')
    width = np.median(pairs) if sigma is None else sigma
    a = np.zeros(square.shape)
    for j in range(len(x)):
      nearest = sorted(set(range(len(x))) - {j}, key=lambda i: square[i, j])
      for i in nearest[:neighbors]:
        a[i, j] = np.exp(-square[i, j] / (2 * width))
    return softmax(a / local_temperature)
  def context(x):
    return softmax(flat(x) @ flat(x).swapaxes(1, 2) / np.sqrt(x.shape[-1]))
  s, t = student_features, teacher_features
  per_image = lambda v: v.reshape(len(s), -1).mean(-1)
  total = inner_weight * ((context(s) - context(t))**2).sum(-1).mean(-1)
  if local_weight:
    total += local_weight * per_image(kl(
        graph(t, frozen['teacher_features']),
        graph(s, frozen['student_features'])))
  if global_weight:
    e, f = (np.concatenate(sampled(x)) for x in (
        (s, t) if student_embeddings is None
        else (student_embeddings, teacher_embeddings)))
    score = unit(e) @ unit(f).T / temperature
    total += global_weight * per_image(-np.diag(log_softmax(score)))
  return total
