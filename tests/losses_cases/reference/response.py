"""Losses on logits."""
import jax
import numpy as np
from scipy import special


def softmax(z):
  return special.softmax(z, axis=-1)


def log_softmax(z):
  return special.log_softmax(z, axis=-1)


def kl(p, q):
  return special.rel_entr(p, q).sum(-1)


def one_hot(labels, classes):
  return labels if labels.dtype.kind == 'f' else np.eye(classes)[labels]


def without(z, labels):
  """`[..., K - 1]`: each row without its label's entry."""
  kept = np.arange(z.shape[-1]) != labels[..., None]
  return z[kept].reshape(z.shape[:-1] + (-1,))


def tempered(z, temperature):
  return softmax(z / np.expand_dims(temperature, -1))


def kd(student_logits, teacher_logits, *, temperature=4.0):
  return np.square(temperature) * kl(tempered(teacher_logits, temperature),
                                     tempered(student_logits, temperature))


def reverse_kl(student_logits, teacher_logits, *, temperature=1.0):
  return kd(teacher_logits, student_logits, temperature=temperature)


def bd_kd(student_logits, teacher_logits, *, temperature=1.0, delta=2.0,
          gate='calibrating'):
  q, p = (tempered(z, temperature) for z in (student_logits, teacher_logits))
  entropy = lambda p: special.entr(p).sum(-1)
  surer = entropy(q) < entropy(p)
  forward, reverse = {
      'forward': (1, 0), 'reverse': (0, 1), 'both': (1, 1),
      'calibrating': (np.where(surer, delta, 1), np.where(surer, 1, delta)),
      'flipped': (np.where(surer, 1, delta), np.where(surer, delta, 1)),
  }[gate]
  return np.square(temperature) * (forward * kl(p, q) + reverse * kl(q, p))


def cross_entropy(student_logits, labels, *, label_smoothing=0.0):
  classes = student_logits.shape[-1]
  y = ((1 - label_smoothing) * one_hot(labels, classes)
       + label_smoothing / classes)
  log_p = log_softmax(student_logits)
  return -np.where(y == 0, 0, y * np.where(y == 0, 0, log_p)).sum(-1)


def cwtm(student_logits, teacher_logits, labels):
  top = softmax(teacher_logits).max(-1)
  return top * len(top) / top.sum() * cross_entropy(student_logits, labels)


def dist(student_logits, teacher_logits, *, temperature=1.0, beta=2.0,
         gamma=2.0):
  q, p = (tempered(z, temperature) for z in (student_logits, teacher_logits))
  gap = lambda q, p: np.mean([1 - np.corrcoef(*rows)[0, 1]
                              for rows in zip(q, p)])
  return temperature**2 * (beta * gap(q, p) + gamma * gap(q.T, p.T))


def dkd(student_logits, teacher_logits, labels, *, temperature=4.0, alpha=1.0,
        beta=8.0):
  binary, rest = [], []
  for z in (student_logits, teacher_logits):
    p = tempered(z, temperature)
    true = np.take_along_axis(p, labels[..., None], -1)
    binary.append(np.concatenate([true, 1 - true], -1))
    others = without(p, labels)
    rest.append(others / others.sum(-1, keepdims=True))
  return np.square(temperature) * (alpha * kl(binary[1], binary[0])
                                   + beta * kl(rest[1], rest[0]))


def dkpp(student_logits, teacher_logits, key, index=None, *, rows):
  p, q = softmax(teacher_logits), softmax(student_logits)
  values = []
  for i, (p_i, q_i) in enumerate(zip(p, q)):
    place = rows[i] if index is None else index[i]
    noise = np.asarray(jax.random.uniform(jax.random.fold_in(key, place),
                                          (len(p_i),)))
    others = np.delete(np.arange(len(p_i)), np.argmax(p_i))
    target = p_i.copy()
    target[others] = p_i[others[np.argsort(noise[others])]]
    values.append(kl(target, q_i))
  return np.array(values)


def jsd(student_logits, teacher_logits, *, beta=0.5, temperature=1.0):
  q, p = (tempered(z, temperature) for z in (student_logits, teacher_logits))
  if beta in (0, 1):
    return np.square(temperature) * (kl(q, p) if beta else kl(p, q))
  mean = beta * p + (1 - beta) * q
  return np.square(temperature) * (beta * kl(p, mean)
                                   + (1 - beta) * kl(q, mean))


def expected_reward(student_logits, labels):
  p = softmax(student_logits)
  return -(p * one_hot(labels, p.shape[-1])).sum(-1)


def label_smoothing_kd(student_logits, labels, *, temperature=20.0,
                       correct_prob=0.99):
  classes = student_logits.shape[-1]
  u = np.where(one_hot(labels, classes) == 1, correct_prob,
               (1 - correct_prob) / (classes - 1))
  u = u**(1 / np.expand_dims(temperature, -1))
  return np.square(temperature) * kl(u / u.sum(-1, keepdims=True), tempered(
      student_logits, temperature))


def logit_standardized_kd(student_logits, teacher_logits, *, temperature=2.0):
  return kd(*((z - z.mean(-1, keepdims=True)) / z.std(-1, keepdims=True)
              for z in (student_logits, teacher_logits)),
            temperature=temperature)


def mlkd(student_logits, teacher_logits, *,
         temperatures=(2.0, 3.0, 4.0, 5.0, 6.0), instance_weight=1.0,
         batch_weight=1.0, class_weight=1.0):
  n, classes = student_logits.shape
  total = 0
  for tau in temperatures:
    q, p = tempered(student_logits, tau), tempered(teacher_logits, tau)
    total += (instance_weight * tau**2 * kl(p, q).mean()
              + batch_weight / n * np.linalg.norm(q @ q.T - p @ p.T)**2
              + class_weight / classes * np.linalg.norm(q.T @ q - p.T @ p)**2)
  return total


def multi_aspect(student_aspects, teacher_aspects):
  yes = special.expit(student_aspects)
  return -(special.xlogy(teacher_aspects, yes)
           + special.xlogy(1 - teacher_aspects, 1 - yes)).mean(-1)


def nkd(student_logits, teacher_logits, labels, *, temperature=1.0, gamma=1.5):
  at = lambda v: np.take_along_axis(v, labels[..., None], -1)[..., 0]
  q, p = (tempered(without(z, labels), temperature)
          for z in (student_logits, teacher_logits))
  return (-at(softmax(teacher_logits)) * at(log_softmax(student_logits))
          - gamma * np.square(temperature) * special.xlogy(p, q).sum(-1))


def partitioned_kd(student_logits, teacher_logits, initial_logits, labels=None,
                   *, temperature=1.0, supervised=True):
  models = np.stack([initial_logits, *(
      teacher_logits if teacher_logits.ndim > student_logits.ndim
      else [teacher_logits])])
  p = softmax(models)
  confidence = ((p * one_hot(labels, p.shape[-1])).sum(-1) if supervised
                else p.max(-1))
  best = confidence.argmax(0)
  return kd(student_logits, np.take_along_axis(
      models, best[None, ..., None], 0)[0], temperature=temperature)


def skew_kl(student_logits, teacher_logits, *, skew=0.1, temperature=1.0):
  q, p = (tempered(z, temperature) for z in (student_logits, teacher_logits))
  return np.square(temperature) * kl(p, skew * p + (1 - skew) * q)


def skew_reverse_kl(student_logits, teacher_logits, *, skew=0.1,
                    temperature=1.0):
  q, p = (tempered(z, temperature) for z in (student_logits, teacher_logits))
  return np.square(temperature) * kl(q, (1 - skew) * p + skew * q)


def squared_error_logit(student_logits, teacher_logits, labels):
  at = lambda z: np.take_along_axis(log_softmax(z), labels[..., None], -1)
  return 0.5 * (at(student_logits) - at(teacher_logits))[..., 0]**2


def total_variation(student_logits, teacher_logits):
  return np.abs(softmax(student_logits) - softmax(teacher_logits)).sum(-1) / 2


def uskd(student_logits, student_weak_logits, labels, *, frozen, alpha=1.0,
         beta=0.1, mu=0.005):
  n, classes = student_logits.shape
  q_y = softmax(frozen['student_logits'])[np.arange(n), labels]
  target = 1 + q_y**2 - (q_y**2).mean()
  values = -alpha * target * log_softmax(student_logits)[np.arange(n), labels]
  score = (softmax(without(frozen['student_logits'], labels))
           + softmax(without(frozen['student_weak_logits'], labels)))
  zipf = 1 / np.arange(1, classes)
  zipf /= zipf.sum()
  for i, log_q in enumerate(log_softmax(without(student_logits, labels))):
    values[i] -= beta * zipf @ log_q[np.argsort(-score[i])]
  return values + mu * cross_entropy(student_weak_logits, labels,
                                     label_smoothing=0.1)
