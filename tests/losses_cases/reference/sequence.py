"""Losses on token distributions."""
import jax
import numpy as np
from scipy import special

from losses_cases.reference.response import kl
from losses_cases.reference.response import log_softmax
from losses_cases.reference.response import one_hot
from losses_cases.reference.response import softmax


def adaptive_kl(student_logits, teacher_logits, *, frozen, head=0.5):
  q, p = softmax(student_logits), softmax(teacher_logits)
  share = []
  for q_i, p_i in zip(softmax(frozen['student_logits']),
                      softmax(frozen['teacher_logits'])):
    order = np.argsort(-p_i)
    count = max(1, (np.cumsum(p_i[order]) <= head).sum())
    gap = np.abs(p_i - q_i)
    share.append(gap[order[:count]].sum() / gap.sum())
  share = np.array(share)
  return share * kl(p, q) + (1 - share) * kl(q, p)


def logit_swap(student_logits, teacher_logits, labels):
  target = teacher_logits.copy()
  for z, mode, y in zip(target, target.argmax(-1), labels):
    z[mode], z[y] = z[y], z[mode]
  return kl(softmax(target), softmax(student_logits))


def minillm(student_logits, teacher_logits, labels, sample_log_probs=None, *,
            frozen, length_normalized=True, clip=0.2):
  log_q, fixed_q, fixed_p = (
      log_softmax(z)[np.arange(len(labels)), labels] for z in (
          student_logits, frozen['student_logits'], frozen['teacher_logits']))
  sampled = (fixed_q if sample_log_probs is None
             else frozen['sample_log_probs'])
  values = kl(softmax(student_logits), softmax(teacher_logits))
  for i in range(len(labels) - 1):
    rest = (fixed_q - fixed_p)[i + 1:]
    later = rest.mean() if length_normalized else rest.sum()
    w = np.exp(log_q[i] - sampled[i])
    values[i] += max(later * w, later * min(max(w, 1 - clip), 1 + clip))
  return values


def self_evolution_kd(student_logits, teacher_logits, labels, key=None, *,
                      frozen, rows, size, lam=0.5, hard=0.5, ratio=0.3,
                      form='mixture', choice='difficulty'):
  q, p = softmax(student_logits), softmax(teacher_logits)
  y = one_hot(labels, q.shape[-1])
  g = lam * y + (1 - lam) * softmax(frozen['teacher_logits'])
  difficulty = kl(g, softmax(frozen['student_logits']))
  if choice == 'random':
    difficulty = np.asarray(jax.random.uniform(key, (size,)))[rows]
  count = round(hard * len(q))
  is_hard = np.isin(np.arange(len(q)), np.argsort(-difficulty)[:count])
  plain = kl(p, q)
  evolved = {
      'mixture': lambda: kl(p, (1 - ratio) * q + ratio * g),
      'geometric': lambda: kl(p, softmax(
          (1 - ratio) * student_logits + ratio * np.log(g))),
      'weight': lambda: plain / (1 - ratio)}[form]()
  return np.where(is_hard, evolved, plain)


def taid(student_logits, teacher_logits, *, frozen, share=0.4):
  target = softmax((1 - share) * frozen['student_logits']
                   + share * teacher_logits)
  return kl(target, softmax(student_logits))


def top_kld(student_logits, teacher_logits, *, k=5, top='reverse',
            corrected=True):
  q, p = softmax(student_logits), softmax(teacher_logits)
  values = []
  for q_i, p_i in zip(q, p):
    is_top = np.isin(np.arange(len(p_i)), np.argsort(-p_i)[:k])
    is_reverse = is_top if top == 'reverse' else ~is_top
    cost = np.where(is_reverse, special.rel_entr(q_i, p_i),
                    special.rel_entr(p_i, q_i))
    d = (p_i - q_i)[is_top].sum()
    sign = 2 if top == 'reverse' else -2
    values.append(cost.sum() + corrected * sign * d)
  return np.array(values)


def uld(student_logits, teacher_logits):
  q, p = (-np.sort(-softmax(z)) for z in (student_logits, teacher_logits))
  width = min(q.shape[-1], p.shape[-1])
  return (np.abs(q[:, :width] - p[:, :width]).sum(-1)
          + q[:, width:].sum(-1) + p[:, width:].sum(-1))
