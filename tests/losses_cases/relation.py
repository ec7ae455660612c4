"""Rows and bad calls of losses/relation."""
import jax
import numpy as np

from kt_jax import losses
from losses_cases.case import Case


def vectors(r, lead, student=6, teacher=6):
  return {'student_features': r.normal(size=lead + (student,)),
          'teacher_features': r.normal(size=lead + (teacher,))}


def maps(r, lead):
  """Layers whose sizes differ between layers and nets."""
  draw = lambda *shapes: [r.normal(size=lead + s) for s in shapes]
  return {'student_features': draw((2, 2, 3), (4,)),
          'teacher_features': draw((4, 4, 5), (7,))}


def same_maps(r, lead):
  """As many channels in both nets; the last layer is the smallest."""
  draw = lambda: [r.normal(size=lead + s)
                  for s in ((4, 4, 3), (2, 4, 5), (2, 2, 2))]
  return {'student_features': draw(), 'teacher_features': draw()}


def one_map(r, lead):
  return {n: v[0] for n, v in same_maps(r, lead).items()}


def embedded(r, lead, negatives=7, width=6):
  def draw(*axes):
    x = r.normal(size=lead + axes + (width,))
    return x / np.linalg.norm(x, axis=-1, keepdims=True)
  return {'student_features': draw(), 'teacher_features': draw(),
          'student_negatives': draw(negatives),
          'teacher_negatives': draw(negatives)}


def tokens(r, lead):
  return {**vectors(r, lead + (5,)), 'key': 0}


def tokens_projected(r, lead):
  """Widths that differ; maps are grids of tokens."""
  return {'student_features': r.normal(size=lead + (2, 3, 4)),
          'teacher_features': r.normal(size=lead + (2, 3, 6)),
          'student_embeddings': r.normal(size=lead + (6, 5)),
          'teacher_embeddings': r.normal(size=lead + (2, 3, 5))}


def scores(r, lead):
  return {'student_logits': r.normal(size=lead + (9,)),
          'teacher_logits': r.normal(size=lead + (9,))}


def known_and_novel(r, lead):
  return {'student_logits': 2 * r.normal(size=lead + (7,)),
          'teacher_logits': 2 * r.normal(size=lead + (4,))}


CASES: dict[str, Case] = {
    'cka': Case('cka', vectors, batch='relation'),
    'cka_debiased': Case('cka', vectors, {'debiased': True}, batch='relation'),
    'class_relation': Case('class_relation', known_and_novel,
                           zero_at_equality=False, batch='relation'),
    'class_relation_detach': Case(
        'class_relation', known_and_novel,
        {'detach': True, 'temperature': 2.0},
        zero_at_equality=False, batch='relation'),
    'correlation_congruence': Case(
        'correlation_congruence', vectors, {'gamma': 0.7, 'order': 3},
        batch='relation'),
    'correlation_congruence_exact': Case(
        'correlation_congruence', vectors, {'gamma': 0.3, 'order': None},
        batch='relation'),
    'correlation_congruence_bilinear': Case(
        'correlation_congruence', vectors, {'kernel': 'bilinear'},
        batch='relation'),
    'crd': Case('crd', embedded, {'examples': 50}, zero_at_equality=False,
                batch='example'),
    'crd_normalized': Case(
        'crd', embedded, {'temperature': 0.3, 'examples': 40,
                          'student_normalizer': 9.0,
                          'teacher_normalizer': 2.0},
        zero_at_equality=False, batch='example'),
    'ickd': Case('ickd', same_maps, batch='example'),
    'ickd_plain': Case('ickd', one_map, {'normalize': False}, batch='example'),
    'info_nce': Case('info_nce', vectors, zero_at_equality=False,
                     batch='relation'),
    'info_nce_symmetric': Case(
        'info_nce', vectors, {'symmetric': True, 'normalize': False,
                              'temperature': 1.5},
        zero_at_equality=False, batch='relation'),
    'inter_layer_relation': Case('inter_layer_relation', same_maps,
                                 {'eps': 0.2}, batch='example'),
    'intra_layer_pattern': Case('intra_layer_pattern', same_maps,
                                batch='example'),
    'intra_layer_pattern_one': Case('intra_layer_pattern', one_map,
                                    batch='example'),
    'partial_ranking': Case('partial_ranking', scores,
                            {'candidates': 6, 'ranked': 3,
                             'temperature': 0.3}, zero_at_equality=False),
    'partial_ranking_all': Case('partial_ranking', scores, {'threshold': 0.2},
                                zero_at_equality=False),
    'pkt': Case('pkt', vectors, batch='relation'),
    'pkt_self': Case('pkt', vectors, {'include_self': True}, batch='relation'),
    'rkd_angle': Case('rkd_angle', vectors, batch='relation'),
    'rkd_distance': Case('rkd_distance', vectors, batch='relation'),
    'similarity_preserving': Case('similarity_preserving', maps,
                                  equal=lambda p: {
                                      **p, 'teacher_features':
                                      p['student_features']},
                                  batch='relation'),
    'token_graph': Case('token_graph', tokens, {
        'local_weight': 2.0, 'global_weight': 0.5, 'inner_weight': 3.0,
        'neighbors': 3, 'local_temperature': 0.4, 'temperature': 0.3},
                        zero_at_equality=False, batch='relation'),
    'token_graph_drawn': Case(
        'token_graph', tokens, {'tokens': 3, 'global_weight': 0,
                        'neighbors': 4},
        batch='relation'),
    'token_graph_projected': Case(
        'token_graph', tokens_projected, {'sigma': 5.0}, batch='relation',
        zero_at_equality=False),
}

z = lambda *shape: np.zeros(shape, np.float32)
# Called with features whose batches differ.
ROWS = ('cka', 'correlation_congruence', 'info_nce', 'pkt', 'rkd_angle',
        'rkd_distance', 'similarity_preserving')
BAD = {
    **{f'{n}: batch': (lambda n=n: getattr(losses, n)(z(4, 5), z(3, 5)),
                       rf'{n}: student_features.*\(4, 5\).*\(3, 5\)')
       for n in ROWS},
    **{f'{n}: no width': (lambda n=n: getattr(losses, n)(z(4), z(4)),
                          rf'{n}: student_features.*\(4,\)') for n in ROWS},
    **{f'{n}: where': (lambda n=n: getattr(losses, n)(
        z(4, 5), z(4, 5), np.ones(3, bool)), rf'{n}: where.*\(3,\).*\(4,\)')
       for n in ROWS},
    'cka: layers': (lambda: losses.cka([z(4, 5)] * 2, z(4, 5)),
                    'one layer, got 2'),
    'cka: few': (lambda: losses.cka(z(3, 5), z(3, 5), debiased=True),
                 'debiased=True needs 4 examples, got 3'),
    'cr: classes': (lambda: losses.class_relation(z(4, 5), z(4, 5)),
                    r'student_logits.*\(4, 5\).*novel >= 1'),
    'cr: batch': (lambda: losses.class_relation(z(4, 5), z(3, 4)),
                  r'teacher_logits \(3, 4\)'),
    'cr: where': (lambda: losses.class_relation(
        z(4, 5), z(4, 4), np.ones(3, bool)), r'where.*\(3,\)'),
    'cr: cold': (lambda: losses.class_relation(z(4, 5), z(4, 4), temperature=0),
                 'temperature must be > 0, got 0'),
    'cc: kernel': (lambda: losses.correlation_congruence(
        z(4, 5), z(4, 5), kernel='gausian'), "Did you mean 'gaussian'"),
    'cc: order': (lambda: losses.correlation_congruence(
        z(4, 5), z(4, 5), order=0), 'order must be .* got 0'),
    'cc: gamma': (lambda: losses.correlation_congruence(
        z(4, 5), z(4, 5), gamma=-1.0), 'gamma must be > 0, got -1'),
    'crd: width': (lambda: losses.crd(z(4, 5), z(4, 6), z(4, 2, 5), z(4, 2, 5)),
                   r'student_features.*\(4, 5\).*\(4, 6\)'),
    'crd: negatives': (lambda: losses.crd(z(4, 5), z(4, 5), z(4, 2, 5),
                                          z(4, 3, 5)),
                       r'student_negatives.*\(4, 2, 5\).*\(4, 3, 5\)'),
    'crd: no negatives': (lambda: losses.crd(z(4, 5), z(4, 5), z(4, 0, 5),
                                             z(4, 0, 5)), 'N >= 1'),
    'crd: cold': (lambda: losses.crd(z(4, 5), z(4, 5), z(4, 2, 5), z(4, 2, 5),
                                     temperature=0.0), 'temperature.*0'),
    'crd: examples': (lambda: losses.crd(z(4, 5), z(4, 5), z(4, 2, 5),
                                         z(4, 2, 5), examples=0), 'examples'),
    'ickd: channels': (lambda: losses.ickd(z(4, 2, 2, 5), z(4, 2, 2, 6)),
                       r'\(4, 2, 2, 5\).*\(4, 2, 2, 6\)'),
    'ickd: vectors': (lambda: losses.ickd(z(4, 5), z(4, 5)), r'\[B, ..., C\]'),
    'ickd: layers': (lambda: losses.ickd([z(4, 2, 5)], [z(4, 2, 5)] * 2),
                     'has 1 layers, teacher_features 2'),
    'nce: width': (lambda: losses.info_nce(z(4, 5), z(4, 6)),
                   r'student_features.*\(4, 5\).*\(4, 6\)'),
    'nce: cold': (lambda: losses.info_nce(z(4, 5), z(4, 5), temperature=-1.0),
                  'temperature.*-1'),
    'inter: one': (lambda: losses.inter_layer_relation(
        [z(4, 2, 2, 5)], [z(4, 2, 2, 5)]), 'two or more layers, got 1'),
    'inter: channels': (lambda: losses.inter_layer_relation(
        [z(4, 2, 2, 5)] * 2, [z(4, 2, 2, 6)] * 2), r'\(4, 2, 2, 6\)'),
    'inter: factor': (lambda: losses.inter_layer_relation(
        [z(4, 2, 2, 5), z(4, 3, 3, 5)], [z(4, 2, 2, 5)] * 2),
                      r'\(4, 3, 3, 5\).*2x2'),
    'inter: eps': (lambda: losses.inter_layer_relation(
        [z(4, 2, 2, 5)] * 2, [z(4, 2, 2, 5)] * 2, eps=-1.0), 'eps.*-1'),
    'intra: shape': (lambda: losses.intra_layer_pattern(
        z(4, 2, 2, 5), z(4, 2, 2, 6)), r'\(4, 2, 2, 5\).*\(4, 2, 2, 6\)'),
    'rank: candidates': (lambda: losses.partial_ranking(
        z(4, 5), z(4, 5), candidates=0), 'candidates must be .* got 0'),
    'rank: ranked': (lambda: losses.partial_ranking(
        z(4, 5), z(4, 5), ranked=1.5), 'ranked must be .* got 1.5'),
    'rank: shapes': (lambda: losses.partial_ranking(z(4, 5), z(4, 6)),
                     r'teacher_logits.*\(4, 6\)'),
    'rank: cold': (lambda: losses.partial_ranking(
        z(4, 5), z(4, 5), temperature=0), 'temperature.*0'),
    'trg: tokens': (lambda: losses.token_graph(z(4, 3, 5), z(4, 2, 5)),
                    r'\(4, 3, 5\).*\(4, 2, 5\)'),
    'trg: vectors': (lambda: losses.token_graph(z(4, 5), z(4, 5)),
                     r'\[B, N, D\].*\(4, 5\)'),
    'trg: widths': (lambda: losses.token_graph(z(4, 3, 5), z(4, 3, 6)),
                    r'L_global compares \(4, 3, 5\) with \(4, 3, 6\)'),
    'trg: one embedding': (lambda: losses.token_graph(
        z(4, 3, 5), z(4, 3, 5), z(4, 3, 5)), 'needed together'),
    'trg: no key': (lambda: losses.token_graph(z(4, 3, 5), z(4, 3, 5),
                                               tokens=2), 'with a key'),
    'trg: too many': (lambda: losses.token_graph(
        z(4, 3, 5), z(4, 3, 5), key=jax.random.key(0), tokens=4),
                      r'tokens must be in 0\.\.3'),
    'trg: neighbors': (lambda: losses.token_graph(
        z(4, 3, 5), z(4, 3, 5), neighbors=0), 'neighbors must be > 0, got 0'),
    'trg: sigma': (lambda: losses.token_graph(
        z(4, 3, 5), z(4, 3, 5), sigma=0.0), 'sigma must be > 0'),
}
