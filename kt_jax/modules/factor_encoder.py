"""Paraphraser and translator of factor transfer."""
import functools

from flax import nnx
import jax

from kt_jax import core
from kt_jax.modules._block import Block
from kt_jax.modules._block import layer_shapes
from kt_jax.modules._pooled import single
from kt_jax.modules._pooled import valid


class FactorEncoder(nnx.Module):
  r"""An autoencoder of the teacher, and an encoder of the student.

  The paraphraser encodes the teacher's features of D channels in rate D
  channels, the factors, and decodes them; the translator maps the student's
  features to factors. Each is three 3x3 convolutions (linear maps for features
  without a grid) with leaky ReLUs of slope 0.1.

  Arrays, by name:
    student_features: `[B, ..., C]`, one layer, at construction and call.
    teacher_features: `[B, ..., D]`, at construction and call.
    where: `[B]` bool, at the call, the valid examples; others are read as 0.

  Settings:
    rate: factors per channel of the teacher, > 0.
    norm: BatchNorm before each activation.

  Returns:
    `student_features` and `teacher_features`, the factors `[B, ..., rate D]`;
    no gradient passes through those of the teacher, so that factor transfer
    trains the translator and the student only. `reconstruction` and `original`
    `[B, ..., D]`: a second term, `losses.hint` with `student_features` and
    `teacher_features` renamed to these, trains the paraphraser.

  Departures: the paper trains the paraphraser first, which is a run with the
  second term alone. Transposed convolutions of stride 1 are convolutions. The
  paper has BatchNorm (norm=True), the authors' code does not.

  References: kim2018factor, Sec. 3.
  """

  def __init__(self, student_features, teacher_features, *, rngs: nnx.Rngs,
               rate: float = 0.5, norm: bool = False):
    fn = 'FactorEncoder'
    core.check_positive(fn, rate=rate)
    (s, t), = layer_shapes(
        fn, single(fn, 'student_features', student_features),
        single(fn, 'teacher_features', teacher_features))
    factors = max(1, round(rate * t[-1]))

    def stack(*widths):
      return nnx.List([
          Block(a, b, kernel=3 if len(t) == 4 else 1, bias=not norm, norm=norm,
                act=functools.partial(nnx.leaky_relu, negative_slope=0.1),
                rngs=rngs) for a, b in zip(widths, widths[1:])])
    self.encoder = stack(t[-1], t[-1], factors, factors)
    self.decoder = stack(factors, factors, t[-1], t[-1])
    self.translator = stack(s[-1], s[-1], factors, factors)

  def __call__(self, student_features, teacher_features, where=None
               ) -> dict[str, jax.Array]:
    fn = 'FactorEncoder'
    s, t = (valid(core.to_float(single(fn, name, x)), where)
            for name, x in (('student_features', student_features),
                            ('teacher_features', teacher_features)))
    factors = _run(self.encoder, t, where)
    return {'student_features': _run(self.translator, s, where),
            'teacher_features': jax.lax.stop_gradient(factors),
            'reconstruction': _run(self.decoder, factors, where),
            'original': t}


def _run(blocks, x, where):
  for block in blocks:
    x = block(x, where)
  return valid(x, where)
