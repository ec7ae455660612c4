"""Losses on features."""
import numpy as np
from scipy import stats


def as_list(features):
  return features if isinstance(features, list) else [features]


def pooled(x, height, width):
  """Means over the windows of a grid."""
  out = np.zeros((len(x), height, width, x.shape[-1]))
  window = lambda i, n, length: slice(i * length // n,
                                      -(-(i + 1) * length // n))
  for i in range(height):
    for j in range(width):
      out[:, i, j] = x[:, window(i, height, x.shape[1]),
                       window(j, width, x.shape[2])].mean((1, 2))
  return out


def common(*maps):
  """Maps on the smaller grid; anything else as it is."""
  if maps[0].ndim != 4:
    return maps
  sides = [min(x.shape[axis] for x in maps) for axis in (1, 2)]
  return [pooled(x, *sides) for x in maps]


def layers(student_features, teacher_features):
  return [common(s, t) for s, t in zip(as_list(student_features),
                                       as_list(teacher_features))]


def per_example(x):
  return x.reshape(len(x), -1)


def unit(x, axis=-1):
  return x / np.linalg.norm(x, axis=axis, keepdims=True)


def hint(student_features, teacher_features):
  return sum(per_example((s - t)**2).mean(-1)
             for s, t in layers(student_features, teacher_features))


def attention_transfer(student_features, teacher_features, *, power=2.0,
                       squared=True):
  total = 0
  for pair in layers(student_features, teacher_features):
    q, r = (unit(per_example((np.abs(x)**power).sum(-1))) for x in pair)
    total += (((q - r)**2).mean(-1) if squared
              else np.linalg.norm(q - r, axis=-1))
  return total


def class_attention(student_features, teacher_features, student_head,
                    teacher_head, *, pool=2, normalize=False, binarize=False,
                    classes=None):
  maps, teacher = student_features @ student_head, (
      teacher_features @ teacher_head)
  order = np.argsort(-teacher.mean((1, 2)))  # the most probable first
  if binarize:
    teacher = (teacher > np.abs(teacher).mean((1, 2), keepdims=True)) * 1.0
  maps, teacher = pooled(maps, pool, pool), pooled(teacher, pool, pool)
  if classes is not None:
    order = order[:, :classes] if classes > 0 else order[:, classes:]
    maps, teacher = (np.stack([x[i][..., order[i]] for i in range(len(x))])
                     for x in (maps, teacher))
  if normalize:
    maps, teacher = unit(maps, (1, 2)), unit(teacher, (1, 2))
  return per_example((maps - teacher)**2).mean(-1)


def nst(student_features, teacher_features, *, frozen, kernel='polynomial'):
  columns = lambda x: unit(x.reshape(len(x), -1, x.shape[-1]), 1)
  total = 0
  for pair, fixed in zip(layers(student_features, teacher_features),
                         layers(frozen['student_features'],
                                frozen['teacher_features'])):
    s, t = map(columns, pair)
    square = lambda x, y: ((x[..., None] - y[:, :, None])**2).sum(1)
    v = square(*map(columns, fixed)).mean((1, 2))[:, None, None]
    k = {'polynomial': lambda x, y: np.einsum('bnc,bnd->bcd', x, y)**2,
         'linear': lambda x, y: np.einsum('bnc,bnd->bcd', x, y),
         'gaussian': lambda x, y, v=v, square=square: np.exp(
             -square(x, y) / (2 * v))}[kernel]
    mean = lambda x, y, k=k: k(x, y).mean((1, 2))
    total += mean(t, t) + mean(s, s) - 2 * mean(s, t)
  return total


def fsp(student_features, teacher_features):
  def flows(maps):
    for x, y in zip(maps, maps[1:]):
      x, y = common(x, y)
      yield np.mean(x[..., :, None] * y[..., None, :], (1, 2))
  return sum(per_example((g - h)**2).sum(-1) for g, h in zip(
      flows(student_features), flows(teacher_features)))


def factor_transfer(student_features, teacher_features, *, p=1):
  return sum((np.abs(unit(per_example(s)) - unit(per_example(t)))**p).mean(-1)
             for s, t in layers(student_features, teacher_features))


def activation_boundary(student_features, teacher_features, *, margin=1.0,
                        decay=0.5):
  pairs = layers(student_features, teacher_features)
  total = 0
  for i, (s, t) in enumerate(pairs):
    cost = np.where(t > 0, np.maximum(margin - s, 0), np.maximum(margin + s, 0))
    total += decay**(len(pairs) - 1 - i) * per_example(cost**2).sum(-1)
  return total


def vid(student_features, teacher_features, variance):
  return sum(
      -per_example(stats.norm.logpdf(t, s, np.sqrt(v))).mean(-1)
      - np.log(2 * np.pi) / 2
      for (s, t), v in zip(layers(student_features, teacher_features),
                           as_list(variance)))


def overhaul(student_features, teacher_features, margin, *, decay=0.5):
  pairs = layers(student_features, teacher_features)
  total = 0
  for i, ((s, t), m) in enumerate(zip(pairs, as_list(margin))):
    t = np.where(t > m, t, m)
    cost = np.where((t <= 0) & (s <= t), 0, (s - t)**2)
    total += decay**(len(pairs) - 1 - i) * per_example(cost).sum(-1)
  return total


def review_kd(student_features, teacher_features, *, levels=(4, 2, 1)):
  total = 0
  for s, t in layers(student_features, teacher_features):
    grids = [] if s.ndim < 4 else [n for n in levels if n < min(s.shape[1:3])]
    costs = [hint(s, t)] + [hint(pooled(s, n, n), pooled(t, n, n))
                            for n in grids]
    total += np.average(costs, axis=0, weights=0.5**np.arange(len(costs)))
  return total


def knowledge_token(student_features, teacher_features, targets=None):
  others = [teacher_features] + [targets] * (targets is not None)
  return sum(per_example((student_features - y)**2).mean(-1) for y in others)
