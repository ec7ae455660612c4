"""Rows and bad calls of losses/feature."""

import numpy as np

from kt_jax import losses
from losses_cases.case import Case

C, K = 5, 6


def features(*shapes, teacher=None, one=False):
  """Layers of these shapes, the teacher's of its own; `one`: no list."""
  def arrays(r, lead):
    draw = lambda shapes: [r.normal(size=lead + s) for s in shapes]
    student, teachers = draw(shapes), draw(teacher or shapes)
    return {'student_features': student[0] if one else student,
            'teacher_features': teachers[0] if one else teachers}
  return arrays


MAPS = features((4, 6, C), (2, 3, C))
OTHER = features((4, 6, C), (2, 3, C), teacher=[(6, 4, C), (2, 3, C)])
WIDER = features((4, 6, C), (2, 3, C), teacher=[(6, 4, 3), (2, 3, 8)])
TOKENS = features((7, C), one=True)
VECTOR = features((C,), one=True)
FLOW = features((8, 4, 3), (4, 4, C), (2, 3, 4))


def with_channels(name, value):
  """Besides maps, `name`: `value(r)` per layer."""
  def arrays(r, lead):
    return MAPS(r, lead) | {name: [value(r) for _ in range(2)]}
  return arrays


def maps_and_heads(r, lead):
  return {'student_features': r.normal(size=lead + (4, 4, C)),
          'teacher_features': r.normal(size=lead + (6, 5, C)),
          'student_head': r.normal(size=(C, K)),
          'teacher_head': r.normal(size=(C, K))}


def outputs(r, lead):
  draw = lambda: r.normal(size=lead + (4, 3, C))
  return {'student_features': draw(), 'teacher_features': draw(),
          'targets': draw()}


def copied(p):
  """Equality for models whose layers differ in shape; targets too."""
  return p | {'teacher_features': p['student_features'],
              'teacher_head': p.get('student_head'),
              'targets': p['student_features']}


def row(loss, arrays, **settings):
  return Case(loss, arrays, settings, batch='example', equal=copied)


variances = with_channels('variance', lambda r: 0.1 + r.random(C))
margins = with_channels('margin', lambda r: -r.random(C))
CASES: dict[str, Case] = {
    'hint': row('hint', MAPS),
    'hint_grids': row('hint', OTHER),
    'hint_vector': row('hint', VECTOR),
    'hint_tokens': row('hint', TOKENS),
    'attention_transfer': row('attention_transfer', WIDER),
    'attention_transfer_tokens': row('attention_transfer', TOKENS),
    'attention_transfer_power': row('attention_transfer', MAPS, power=4),
    'attention_transfer_distance': row('attention_transfer', MAPS, power=1,
                                       squared=False),
    'nst': row('nst', WIDER),
    'nst_tokens': row('nst', TOKENS),
    'nst_linear': row('nst', MAPS, kernel='linear'),
    'nst_gaussian': row('nst', WIDER, kernel='gaussian'),
    'fsp': row('fsp', FLOW),
    'factor_transfer': row('factor_transfer', OTHER),
    'factor_transfer_squared': row('factor_transfer', VECTOR, p=2),
    'activation_boundary': row('activation_boundary', OTHER)._replace(
        zero_at_equality=False),
    'activation_boundary_flat': row(
        'activation_boundary', MAPS, margin=0.3, decay=0.7)._replace(
            zero_at_equality=False),
    'vid': row('vid', variances)._replace(
        zero_at_equality=False, shared=('variance',)),
    'overhaul': row('overhaul', margins)._replace(shared=('margin',)),
    'overhaul_flat': row('overhaul', margins, decay=0.7)._replace(
        shared=('margin',)),
    'review_kd': row('review_kd', features((8, 9, C), (4, 3, C), (C,))),
    'review_kd_levels': row('review_kd', OTHER, levels=(3, 2)),
    'class_attention': row('class_attention', maps_and_heads),
    'class_attention_cat': row('class_attention', maps_and_heads,
                               normalize=True, pool=3),
    'class_attention_binary': row('class_attention', maps_and_heads,
                                  binarize=True)._replace(
                                      zero_at_equality=False),
    'class_attention_most': row('class_attention', maps_and_heads, classes=2),
    'class_attention_least': row('class_attention', maps_and_heads, pool=1,
                                 classes=-2),
    'knowledge_token': row('knowledge_token', outputs),
    'knowledge_token_alone': row('knowledge_token', VECTOR),
}

z = lambda *shape: np.zeros(shape, np.float32)
A = z(4, 6, 6, 5)
HEAD = z(5, 3)


def cat(*args, **kw):
  return lambda: losses.class_attention(*args, **kw)


BAD = {
    'hint: channels': (lambda: losses.hint(A, z(4, 6, 6, 7)),
                       r'hint: layer 0.*\(4, 6, 6, 5\).*\(4, 6, 6, 7\)'),
    'hint: layers': (lambda: losses.hint([A, A], [A]), 'hint: .*2.*1'),
    'hint: none': (lambda: losses.hint([], []), 'at least 1'),
    'hint: batch': (lambda: losses.hint([A, A], [A, z(3, 6, 6, 5)]),
                    'hint: layer 1'),
    'hint: tokens': (lambda: losses.hint(z(4, 6, 5), z(4, 7, 5)),
                     r'\(4, 6, 5\).*\(4, 7, 5\)'),
    'hint: rank': (lambda: losses.hint(A, z(4, 5)), r'\(4, 5\)'),
    'at: vector': (lambda: losses.attention_transfer(z(4, 5), z(4, 5)),
                   'attention_transfer: .*3 axes'),
    'at: power': (lambda: losses.attention_transfer(A, A, power=0.5),
                  'power must be >= 1, got 0.5'),
    'nst: kernel': (lambda: losses.nst(A, A, kernel='gausian'),
                    "nst: No kernel 'gausian'. Did you mean 'gaussian'"),
    'nst: vector': (lambda: losses.nst(z(4, 5), z(4, 5)), 'nst: .*3 axes'),
    'fsp: one layer': (lambda: losses.fsp(A, A), 'fsp: .*at least 2 layers'),
    'fsp: channels': (lambda: losses.fsp([A, A], [A, z(4, 6, 6, 7)]),
                      'fsp: layer 1'),
    'fsp: tokens': (lambda: losses.fsp([z(4, 6, 5)] * 2, [z(4, 6, 5)] * 2),
                    r'fsp: layer 0.*\(4, 6, 5\)'),
    'ft: channels': (lambda: losses.factor_transfer(A, z(4, 6, 6, 7)),
                     'factor_transfer: layer 0'),
    'ft: p': (lambda: losses.factor_transfer(A, A, p=3),
              'p must be 1 or 2, got 3'),
    'ab: margin': (lambda: losses.activation_boundary(A, A, margin=-1),
                   'margin must be >= 0, got -1'),
    'ab: decay': (lambda: losses.activation_boundary(A, A, decay=0),
                  'decay must be > 0, got 0'),
    'ab: channels': (lambda: losses.activation_boundary(A, z(4, 6, 6, 7)),
                     'activation_boundary: layer 0'),
    'vid: variance': (lambda: losses.vid(A, A, z(7)),
                      r'vid: variance.*\(7,\).*\(4, 6, 6, 5\)'),
    'vid: layers': (lambda: losses.vid([A, A], [A, A], z(5)),
                    'vid: variance has 1'),
    'overhaul: margin': (lambda: losses.overhaul(A, A, z(1, 5)),
                         r'overhaul: margin.*\(1, 5\)'),
    'overhaul: layers': (lambda: losses.overhaul(A, A, [z(5)] * 2),
                         'overhaul: margin has 2'),
    'overhaul: decay': (lambda: losses.overhaul(A, A, z(5), decay=-1),
                        'decay must be > 0, got -1'),
    'review: levels': (lambda: losses.review_kd(A, A, levels=(2, 0)),
                       r'levels.*\(2, 0\)'),
    'review: half': (lambda: losses.review_kd(A, A, levels=(1.5,)), 'levels'),
    'review: channels': (lambda: losses.review_kd(A, z(4, 6, 6, 7)),
                         'review_kd: layer 0'),
    'cat: head': (cat(A, A, HEAD, z(4, 3)), r'teacher_head.*\(4, 3\)'),
    'cat: vector': (cat(z(4, 5), A, HEAD, HEAD), r'student_features.*\(4, 5\)'),
    'cat: classes differ': (cat(A, A, HEAD, z(5, 4)), 'B and K'),
    'cat: batch': (cat(A, z(3, 6, 6, 5), HEAD, HEAD), 'B and K'),
    'cat: pool': (cat(A, z(4, 2, 3, 5), HEAD, HEAD, pool=3),
                  'pool must be from 1 to 2.*got 3'),
    'cat: no class': (cat(A, A, HEAD, HEAD, classes=0), 'classes.*got 0'),
    'cat: many classes': (cat(A, A, HEAD, HEAD, classes=-4), 'classes.*got -4'),
    'kt: shape': (lambda: losses.knowledge_token(A, z(4, 3, 6, 5)),
                  r'knowledge_token: teacher_features.*\(4, 3, 6, 5\)'),
    'kt: targets': (lambda: losses.knowledge_token(A, A, z(4, 6)),
                    r'knowledge_token: targets.*\(4, 6\)'),
}
