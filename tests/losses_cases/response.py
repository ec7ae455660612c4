"""Rows and bad calls of losses/response."""
import numpy as np

from kt_jax import losses
from losses_cases.case import Case

K, T = 5, 3


def logits(r, lead, teachers=0, soft=False):
  """Arrays of most experiments."""
  draw = lambda *axes: 2 * r.normal(size=axes + lead + (K,))
  return {
      'student_logits': draw(),
      'teacher_logits': draw(teachers) if teachers else draw(),
      'initial_logits': draw(),
      'labels': r.dirichlet(np.ones(K), lead) if soft
                else r.integers(0, K, lead),
  }


def several(r, lead):
  return logits(r, lead, teachers=T)


def soft(r, lead):
  return logits(r, lead, soft=True)


def weak(r, lead):
  return logits(r, lead) | {'student_weak_logits': r.normal(size=lead + (K,))}


def aspects(r, lead):
  return {'student_aspects': 2 * r.normal(size=lead + (K,)),
          'teacher_aspects': r.uniform(size=lead + (K,))}


def keyed(r, lead):
  return logits(r, lead) | {'key': 3}


def indexed(r, lead):
  index = np.arange(np.prod(lead, dtype=int)).reshape(lead)
  return keyed(r, lead) | {'index': 100 + index}


def virtual(p):
  """The student is the virtual teacher of label_smoothing_kd."""
  u = np.where(np.eye(K)[p['labels']] == 1, 0.8, 0.2 / (K - 1))
  return p | {'student_logits': np.log(u)}


CASES = {
    'bd_kd': Case('bd_kd', logits),
    'bd_kd_flipped': Case('bd_kd', logits, {'gate': 'flipped', 'delta': 3.0,
                                            'temperature': 2.0}),
    'bd_kd_both': Case('bd_kd', logits, {'gate': 'both'}),
    'cross_entropy': Case('cross_entropy', logits, zero_at_equality=False),
    'cross_entropy_soft': Case('cross_entropy', soft, soft=True,
                               zero_at_equality=False),
    'cross_entropy_smooth': Case(
        'cross_entropy', logits, {'label_smoothing': 0.1},
        zero_at_equality=False,
        unmasked='smoothing spreads mass over the masked classes: inf'),
    'cwtm': Case('cwtm', logits, zero_at_equality=False, batch='relation'),
    'cwtm_soft': Case('cwtm', soft, soft=True, zero_at_equality=False,
                      batch='relation'),
    'dist': Case('dist', logits, batch='relation'),
    'dist_warm': Case('dist', logits, {'temperature': 4.0, 'beta': 0.7,
                                       'gamma': 1.5}, batch='relation'),
    'dkd': Case('dkd', logits, {'temperature': 3.0, 'alpha': 0.6,
                                'beta': 2.5}),
    'dkpp': Case('dkpp', keyed, zero_at_equality=False,
                 unmasked='the permutation moves the mask'),
    'dkpp_index': Case('dkpp', indexed, zero_at_equality=False,
                       unmasked='the permutation moves the mask'),
    'expected_reward': Case('expected_reward', logits, zero_at_equality=False),
    'expected_reward_soft': Case('expected_reward', soft, soft=True,
                                 zero_at_equality=False),
    'jsd': Case('jsd', logits),
    'jsd_near_reverse': Case('jsd', logits, {'beta': 0.9, 'temperature': 2.0}),
    'jsd_forward': Case('jsd', logits, {'beta': 0.0}),
    'kd': Case('kd', logits),
    'kd_cold': Case('kd', logits, {'temperature': 0.5}),
    'label_smoothing_kd': Case(
        'label_smoothing_kd', logits, {'temperature': 3.0, 'correct_prob': 0.8},
        equal=virtual,
        unmasked='the virtual teacher has mass on masked classes: inf'),
    'logit_standardized_kd': Case(
        'logit_standardized_kd', logits, {'temperature': 3.0},
        unmasked='mean and deviation run over all classes'),
    'mlkd': Case('mlkd', logits, {
        'temperatures': (1.5, 4.0), 'instance_weight': 0.7,
        'batch_weight': 2.0, 'class_weight': 1.3}, batch='relation'),
    'multi_aspect': Case(
        'multi_aspect', aspects, zero_at_equality=False,
        fixed=('teacher_aspects',), unmasked='questions are no classes'),
    'nkd': Case('nkd', logits, zero_at_equality=False),
    'nkd_warm': Case('nkd', logits, {'temperature': 2.0, 'gamma': 0.8},
                     zero_at_equality=False),
    'partitioned_kd': Case('partitioned_kd', logits),
    'partitioned_kd_soft': Case('partitioned_kd', soft, soft=True),
    'partitioned_kd_unsupervised': Case('partitioned_kd', logits,
                                        {'supervised': False,
                                         'temperature': 3.0}),
    'partitioned_kd_several': Case('partitioned_kd', several,
                                   {'temperature': 2.0}, teachers=T),
    'reverse_kl': Case('reverse_kl', logits, {'temperature': 2.5}),
    'skew_kl': Case('skew_kl', logits, {'temperature': 2.0, 'skew': 0.35}),
    'skew_reverse_kl': Case('skew_reverse_kl', logits,
                            {'temperature': 1.5, 'skew': 0.35}),
    'squared_error_logit': Case('squared_error_logit', logits),
    'total_variation': Case('total_variation', logits),
    'uskd': Case('uskd', weak, {'alpha': 0.7, 'beta': 0.4, 'mu': 0.3},
                 zero_at_equality=False, batch='relation'),
}

ids = np.zeros(4, np.int32)
z = lambda *shape: np.zeros(shape, np.float32)


def bad(fn, *more, **settings):
  """A call on two models' logits `[4, 5]`, then `more`."""
  return lambda: fn(z(4, 5), z(4, 5), *more, **settings)


# Every loss on logits of two models, called with another number of classes.
BAD = {f'{fn.__name__}: classes': (
    lambda fn=fn, more=more: fn(z(4, 5), z(4, 6), *more),
    rf'{fn.__name__}: (teacher|student_weak)_.*\(4, 6\).*\(4, 5\)')
       for fn, more in (
           (losses.bd_kd, ()), (losses.cwtm, (ids,)), (losses.dist, ()),
           (losses.dkd, (ids,)), (losses.dkpp, (None,)), (losses.jsd, ()),
           (losses.kd, ()), (losses.logit_standardized_kd, ()),
           (losses.mlkd, ()), (losses.multi_aspect, ()), (losses.nkd, (ids,)),
           (losses.reverse_kl, ()), (losses.skew_kl, ()),
           (losses.skew_reverse_kl, ()), (losses.squared_error_logit, (ids,)),
           (losses.total_variation, ()), (losses.uskd, (ids,)))}
BAD |= {
    'bd: gate': (bad(losses.bd_kd, gate='calibrated'), "bd_kd.*calibrating"),
    'bd: delta': (bad(losses.bd_kd, delta=0), 'bd_kd: delta.* 0'),
    'bd: cold': (bad(losses.bd_kd, temperature=0), 'temperature.*0'),
    'cwtm: tokens': (lambda: losses.cwtm(z(2, 4, 5), z(2, 4, 5), ids[:2]),
                     r'cwtm.*\(2, 4, 5\)'),
    'cwtm: where': (bad(losses.cwtm, ids, ids[:3] == 0),
                    r'cwtm: where.*\(3,\)'),
    'cwtm: labels': (bad(losses.cwtm, ids[:3]), r'cwtm.*\(3,\)'),
    'dist: tokens': (lambda: losses.dist(z(2, 4, 5), z(2, 4, 5)),
                     r'dist.*\(2, 4, 5\)'),
    'dist: where': (bad(losses.dist, ids[:3] == 0), r'dist: where.*\(3,\)'),
    'dist: cold': (bad(losses.dist, temperature=-1), 'dist: temp.*-1'),
    'dist: each': (bad(losses.dist, temperature=np.ones(4)), r'dist.*\(4,\)'),
    'dkd: soft': (bad(losses.dkd, z(4, 5)), 'dkd: labels.*float'),
    'dkd: labels': (bad(losses.dkd, ids[:3]), r'dkd: labels.*\(4,\).*\(3,\)'),
    'dkd: cold': (bad(losses.dkd, ids, temperature=0), 'dkd: temperature.*0'),
    'dkpp: index': (bad(losses.dkpp, None, ids[:3]), r'dkpp: index.*\(3,\)'),
    'reward: labels': (lambda: losses.expected_reward(z(4, 5), ids[:3]),
                       r'expected_reward: labels.*\(4,\).*\(3,\)'),
    'jsd: beta': (bad(losses.jsd, beta=1.5), 'jsd: beta.*1.5'),
    'jsd: cold': (bad(losses.jsd, temperature=0), 'temperature.*0'),
    'ls: soft': (lambda: losses.label_smoothing_kd(z(4, 5), z(4, 5)),
                 'label_smoothing_kd: labels.*float'),
    'ls: sure': (lambda: losses.label_smoothing_kd(z(4, 5), ids,
                                                   correct_prob=1.0),
                 'correct_prob.*1.0'),
    'ls: cold': (lambda: losses.label_smoothing_kd(z(4, 5), ids,
                                                   temperature=0),
                 'temperature.*0'),
    'lskd: cold': (bad(losses.logit_standardized_kd, temperature=0),
                   'temperature.*0'),
    'kd: as many': (bad(losses.kd, temperature=np.ones(3)), r'\(3,\).*\(4,\)'),
    'mlkd: tokens': (lambda: losses.mlkd(z(2, 4, 5), z(2, 4, 5)),
                     r'mlkd.*\(2, 4, 5\)'),
    'mlkd: where': (bad(losses.mlkd, ids[:3] == 0), r'mlkd: where.*\(3,\)'),
    'mlkd: cold': (bad(losses.mlkd, temperatures=(1.0, 0.0)),
                   'mlkd: temperatures'),
    'nkd: soft': (bad(losses.nkd, z(4, 5)), 'nkd: labels.*float'),
    'nkd: cold': (bad(losses.nkd, ids, temperature=0), 'nkd: temperature.*0'),
    'rkl: cold': (bad(losses.reverse_kl, temperature=0), 'temperature.*0'),
    'skl: skew': (bad(losses.skew_kl, skew=1.0), 'skew_kl: skew.*1.0'),
    'skl: cold': (bad(losses.skew_kl, temperature=0), 'temperature.*0'),
    'srkl: skew': (bad(losses.skew_reverse_kl, skew=-0.1),
                   'skew_reverse_kl: skew.*-0.1'),
    'sel: soft': (bad(losses.squared_error_logit, z(4, 5)),
                  'squared_error_logit: labels.*float'),
    'tv: scalar': (lambda: losses.total_variation(z(), z()), 'total_variation'),
    'uskd: soft': (bad(losses.uskd, z(4, 5)), 'uskd: labels.*float'),
    'uskd: where': (bad(losses.uskd, ids, ids[:3] == 0),
                    r'uskd: where.*\(3,\)'),
    'kd: scalar': (lambda: losses.kd(z(), z()), 'student_logits'),
    'kd: batch': (lambda: losses.kd(z(4, 5), z(1, 5)), 'teacher_logits'),
    'kd: cold': (lambda: losses.kd(z(4, 5), z(4, 5), temperature=0),
                 'temperature must be > 0, got 0'),
    'kd: nan': (lambda: losses.kd(z(4, 5), z(4, 5), temperature=float('nan')),
                'temperature'),
    'ce: scalar': (lambda: losses.cross_entropy(z(), ids), 'student_logits'),
    'ce: few labels': (lambda: losses.cross_entropy(z(4, 5), ids[:3]),
                       r'labels.*\(4,\).*\(3,\)'),
    'ce: columns': (lambda: losses.cross_entropy(z(4, 5), ids[:, None]),
                    'labels'),
    'ce: soft classes': (lambda: losses.cross_entropy(z(4, 5), z(4, 6)),
                         r'labels.*\(4, 5\).*\(4, 6\)'),
    'ce: float ids': (lambda: losses.cross_entropy(z(4, 5), z(4)), 'labels'),
    'ce: boolean': (lambda: losses.cross_entropy(z(4, 5), ids == 0),
                    'labels.*bool'),
    'ce: smoothing': (lambda: losses.cross_entropy(
        z(4, 5), ids, label_smoothing=1.5), 'label_smoothing.*1.5'),
    'dp: no labels': (lambda: losses.partitioned_kd(*[z(4, 5)] * 3),
                      'labels.*supervised'),
    'dp: classes': (lambda: losses.partitioned_kd(
        z(4, 5), z(4, 6), z(4, 5), ids), r'teacher_logits.*\(4, 6\)'),
    'dp: stacked classes': (lambda: losses.partitioned_kd(
        z(4, 5), z(2, 4, 6), z(4, 5), ids), 'teacher_logits'),
    'dp: no teacher': (lambda: losses.partitioned_kd(
        z(4, 5), z(0, 4, 5), z(4, 5), ids), 'teacher_logits'),
    'dp: two axes more': (lambda: losses.partitioned_kd(
        z(4, 5), z(1, 1, 4, 5), z(4, 5), ids), 'teacher_logits'),
    'dp: initial': (lambda: losses.partitioned_kd(
        z(4, 5), z(4, 5), z(4, 6), ids), 'initial_logits'),
    'dp: labels': (lambda: losses.partitioned_kd(
        z(4, 5), z(4, 5), z(4, 5), ids[:3]), 'labels'),
    'dp: cold': (lambda: losses.partitioned_kd(
        *[z(4, 5)] * 3, ids, temperature=-1.0), 'temperature.*-1'),
}
