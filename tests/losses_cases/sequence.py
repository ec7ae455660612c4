"""Rows and bad calls of losses/sequence."""
import numpy as np

from kt_jax import losses
from losses_cases.case import Case
from losses_cases.response import logits


def other_vocabulary(r, lead):
  return {'student_logits': 2 * r.normal(size=lead + (5,)),
          'teacher_logits': 2 * r.normal(size=lead + (8,))}


def keyed(r, lead):
  return logits(r, lead) | {'key': 3}


def sampled(r, lead):
  return logits(r, lead) | {'sample_log_probs': -r.random(lead)}


def sure(p):
  """The label is the mode."""
  return p | {'teacher_logits': p['student_logits'],
              'labels': np.argmax(p['student_logits'], -1)}


def evolution(arrays=logits, **settings):
  return Case('self_evolution_kd', arrays, settings, batch='relation',
              zero_at_equality=False)


CASES: dict[str, Case] = {
    'adaptive_kl': Case('adaptive_kl', logits),
    'adaptive_kl_head': Case('adaptive_kl', logits, {'head': 0.9}),
    'logit_swap': Case('logit_swap', logits, equal=sure),
    # Its single sequence is the axis of examples.
    'minillm': Case('minillm', logits, zero_at_equality=False,
                    batch='relation'),
    'minillm_sampled': Case(
        'minillm', sampled, {'length_normalized': False, 'clip': 0.5},
        zero_at_equality=False, batch='relation'),
    'self_evolution_kd': evolution(hard=0.4, lam=0.3, ratio=0.6),
    'self_evolution_kd_geometric': evolution(form='geometric', lam=0.8),
    'self_evolution_kd_weight': evolution(form='weight', hard=0.3, lam=0.2),
    'self_evolution_kd_random': evolution(keyed, choice='random', hard=0.4),
    'taid': Case('taid', logits),
    'taid_end': Case('taid', logits, {'share': 1.0}),
    'top_kld': Case('top_kld', logits, {'k': 2}),
    'top_kld_forward': Case('top_kld', logits, {'k': 1, 'top': 'forward'}),
    'top_kld_uncorrected': Case('top_kld', logits,
                                {'k': 2, 'corrected': False},
                                zero_at_equality=False),
    'uld': Case('uld', logits),
    'uld_vocabularies': Case('uld', other_vocabulary, zero_at_equality=False,
                             unmasked='masked twice, of two vocabularies'),
}

ids = np.zeros(4, np.int32)
z = lambda *shape: np.zeros(shape, np.float32)


def bad(fn, *more, **settings):
  """A call on two models' logits `[4, 5]`, then `more`."""
  return lambda: fn(z(4, 5), z(4, 5), *more, **settings)


BAD = {f'{fn.__name__}: classes': (
    lambda fn=fn, more=more: fn(z(4, 5), z(4, 6), *more),
    rf'{fn.__name__}: teacher_logits.*\(4, 6\).*\(4, 5\)')
       for fn, more in (
           (losses.adaptive_kl, ()), (losses.logit_swap, (ids,)),
           (losses.minillm, (ids,)), (losses.self_evolution_kd, (ids,)),
           (losses.taid, ()), (losses.top_kld, ()))}
BAD |= {
    'akl: head': (bad(losses.adaptive_kl, head=1.5), 'head.*1.5'),
    'swap: soft': (bad(losses.logit_swap, z(4, 5)), 'labels.*float'),
    'swap: labels': (bad(losses.logit_swap, ids[:3]), r'\(4,\).*\(3,\)'),
    'minillm: one': (lambda: losses.minillm(z(5), z(5), ids[0]),
                     r'minillm: .*\[..., S, V\].*\(5,\)'),
    'minillm: labels': (bad(losses.minillm, ids[:3]), r'labels.*\(3,\)'),
    'minillm: where': (bad(losses.minillm, ids, ids[:3] == 0),
                       r'minillm: where.*\(3,\)'),
    'minillm: sampled': (bad(losses.minillm, ids, None, z(3)),
                         r'sample_log_probs.*\(3,\).*\(4,\)'),
    'minillm: clip': (bad(losses.minillm, ids, clip=0.0), 'clip.*0.0'),
    'evolution: labels': (bad(losses.self_evolution_kd, ids[:3]),
                          r'labels.*\(3,\)'),
    'evolution: where': (bad(losses.self_evolution_kd, ids, ids[:3] == 0),
                         r'where.*\(3,\)'),
    'evolution: hard': (bad(losses.self_evolution_kd, ids, hard=1.5),
                        'hard.*1.5'),
    'evolution: ratio': (bad(losses.self_evolution_kd, ids, ratio=1.0),
                         'ratio.*1.0'),
    'evolution: form': (bad(losses.self_evolution_kd, ids, form='mixed'),
                        "Did you mean 'mixture'"),
    'evolution: choice': (bad(losses.self_evolution_kd, ids, choice='radnom'),
                          "Did you mean 'random'"),
    'evolution: key': (bad(losses.self_evolution_kd, ids, choice='random'),
                       'key is needed'),
    'taid: share': (bad(losses.taid, share=-0.1), 'share.*-0.1'),
    'top: k': (bad(losses.top_kld, k=6), 'k must be from 1 to 5, got 6'),
    'top: direction': (bad(losses.top_kld, top='foward'),
                       "Did you mean 'forward'"),
    'uld: batch': (lambda: losses.uld(z(4, 5), z(3, 6)),
                   r'uld: teacher_logits.*\(3, 6\).*\(4, 5\)'),
}
