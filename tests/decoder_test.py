"""Decoders: who sees whom, padding, packing, LoRA, sharding."""
import functools
import re

from flax import nnx
import jax
from jax import numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec
import numpy as np
import pytest

from kt_jax import core
from kt_jax import models
from kt_jax.models import _rotary as rotary
from kt_jax.models.decoder import SHARDING

V, CONTEXT = 31, 24
TINY = dict(depth=2, width=16, heads=4)
# Every option somewhere.
KINDS = {
    'rotary': dict(kv_heads=2, window=(0, 3), tied=False, head_width=6),
    'learned': dict(positions='learned', norm='layer', gated=False,
                    activation='gelu', qkv_bias=True, out_bias=True,
                    mlp_bias=True),
    'capped': dict(query_key_norm=True, post_norms=True, norm_offset=1.0,
                   attention_softcap=2.0, logit_softcap=3.0, embed_scale=4.0,
                   query_scale=0.7, rope_scaling=dict(
                       name='yarn', factor=2.0, original_context=8)),
}


@functools.cache
def made(kind, **kw):
  """`(net, params)`, random everywhere, so that every weight tells."""
  return filled(**TINY, **KINDS[kind], **kw)


def filled(classes=V, **kw):
  """Without compiling anything."""
  build = models.builder('decoder', classes=classes, input_shape=(CONTEXT,),
                         **kw)
  net, rng = models.abstract(build), np.random.default_rng(0)
  shapes = jax.eval_shape(lambda: models.arrays(net, build())[0])
  with jax.ensure_compile_time_eval():  # some tests ask for it while tracing
    return net, {
        name: jnp.asarray(
            0.25 * rng.normal(size=x.shape) + name.endswith('scale'), x.dtype)
        for name, x in shapes.items()}


@functools.cache
def forward(kind):
  """Jitted `(params, tokens, segments) -> logits`."""
  net, _ = made(kind)
  return jax.jit(lambda params, tokens, segments: models.call(
      net, params, {}, lambda m: m(tokens, segments))[0])


def ids(*shape, seed=0):
  return np.random.default_rng(seed).integers(0, V, shape).astype(np.int32)


kinds = pytest.mark.parametrize('kind', KINDS)


@kinds
def test_later_tokens_change_no_earlier_bit(kind):
  tokens, run = ids(2, 12), forward(kind)
  ones = np.ones_like(tokens)
  other = tokens.copy()
  other[:, 7:] = ids(2, 5, seed=1)
  a, b = (run(made(kind)[1], x, ones) for x in (tokens, other))
  np.testing.assert_array_equal(a[:, :7], b[:, :7])
  assert np.abs(np.asarray(a - b)[:, 7:]).max() > 0.01


@kinds
def test_packed_rows_equal_separate_ones(kind):
  run, params = forward(kind), made(kind)[1]
  tokens = ids(2, 12)
  both = run(params, tokens, np.array([[1] * 5 + [2] * 7, [1] * 9 + [0] * 3],
                                      np.int32))
  apart = np.zeros((4, 12), np.int32)  # one compilation of its own
  apart[0, :5], apart[1, :7] = tokens[0, :5], tokens[0, 5:]
  apart[2, :9], apart[3, 3:] = tokens[1, :9], tokens[1, :9]
  want = run(params, apart, np.array(
      [[1] * 5 + [0] * 7, [1] * 7 + [0] * 5, [1] * 9 + [0] * 3,
       [0] * 3 + [1] * 9], np.int32))
  close = functools.partial(np.testing.assert_allclose, rtol=0, atol=2e-5)
  close(both[0, :5], want[0, :5])
  close(both[0, 5:], want[1, :7])
  close(both[1, :9], want[2, :9])
  close(want[3, 3:], want[2, :9])  # padding may stand on either side
  assert np.isfinite(want).all()


def test_a_window_is_as_long_as_it_says():
  """With one block, a token of `window` places ago is the last one seen."""
  net, params = filled(depth=1, width=16, heads=2, window=4)
  tokens = ids(1, 10)
  run = jax.jit(lambda t: models.apply(net, params, {}, t).logits)
  for place, sees in ((6, True), (5, False)):
    other = tokens.copy()
    other[0, place] = (other[0, place] + 1) % V
    gap = np.abs(np.asarray(run(tokens) - run(other)))[0, 9].max()
    assert (gap > 1e-3) == sees


def test_a_prefix_reads_as_tokens_do():
  net, params = made('learned')
  tokens, count = ids(2, 12), 3
  head = ids(1, count, seed=2)
  segments = np.ones((2, 12), np.int32)
  segments[1, :4] = 0

  def run(params, rows, segments, prefix):
    def call(m):
      before = m.embed.embedding[...][head[0]] * m.embed_scale
      return m.hidden(rows, segments, prefix=before if prefix else None)
    return models.call(net, params, {}, call)[0]
  run = jax.jit(run, static_argnums=3)
  got = run(params, tokens, segments, True)
  full = np.concatenate([np.broadcast_to(head, (2, count)), tokens], 1)
  want = run(params, full[:1], np.ones_like(full)[:1], False)[:, count:]
  np.testing.assert_allclose(got[0], want[0], rtol=0, atol=2e-5)
  # Padding lies between the prefix and the second row.
  short = np.concatenate([head, tokens[1:, 4:]], 1)
  want = run(params, short, np.ones_like(short), False)[:, count:]
  np.testing.assert_allclose(got[1, 4:], want[0], rtol=0, atol=2e-5)


def test_parts_make_the_whole():
  net, params = made('capped')
  tokens = ids(2, 6)

  def parts(m):
    hidden = m.hidden(tokens)
    return m(tokens), m.logits(hidden), hidden @ m.head_kernel()
  whole, logits, plain = jax.jit(
      lambda p: models.call(net, p, {}, parts)[0])(params)
  np.testing.assert_allclose(whole, logits, atol=1e-6)
  np.testing.assert_allclose(whole, 3 * np.tanh(plain / 3), atol=1e-5)
  assert models.taps(net, params, {}, tokens)['blocks/1/mlp/act'].shape == (
      2, 6, 42)


def test_lora_begins_as_its_base_and_folds():
  sizes = dict(depth=1, width=16, heads=2, tied=False)
  net, params = filled(**sizes)
  wide, with_lora = filled(**sizes, lora_rank=3, lora_scale=1.5)
  params = {k: with_lora[k] for k in params}
  zero = {k: jnp.zeros_like(v) if k.endswith('lora_b') else v
          for k, v in with_lora.items()}
  tokens = ids(2, 12)
  plain = jax.jit(lambda p: models.apply(net, p, {}, tokens).logits)
  run = jax.jit(lambda p: models.apply(wide, p, {}, tokens).logits)
  np.testing.assert_array_equal(run(zero), plain(params))
  model = models.call(wide, with_lora, {}, lambda m: m)[0]
  want = run(with_lora)
  np.testing.assert_allclose(plain(models.folded(model)), want, atol=2e-4)
  assert np.abs(want - run(zero)).max() > 0.1
  # Only B moves while B is zero.
  grads = jax.jit(jax.grad(lambda p: run(p).std()))(zero)
  for name, grad in grads.items():
    if '/lora_' in name:
      assert (np.abs(grad).max() > 0) == name.endswith('lora_b'), name


def test_gradients_flow_through_what_is_used():
  net, params = made('rotary')
  tokens = np.full((1, 6), 3, np.int32)
  tokens[0, 2:] = [4, 5, 6, 7]
  segments = np.array([[0, 1, 1, 1, 1, 1]], np.int32)

  def loss(params):
    hidden = models.call(net, params, {}, lambda m: m.hidden(
        tokens, segments))[0]
    return (hidden[:, 1:3] ** 3).sum()  # reads the first two tokens alone
  grads = jax.jit(jax.grad(loss))(params)
  assert all(np.isfinite(g).all() for g in grads.values())
  rows = np.abs(np.asarray(grads['embed/embedding'])).max(1)
  assert set(np.flatnonzero(rows)) == {3, 4}
  for name, grad in grads.items():
    assert (np.abs(grad).max() > 0) == (name != 'head/kernel'), name


def test_sharded_equals_unsharded():
  mesh = jax.make_mesh((2, 4), ('data', 'model'),
                       axis_types=(jax.sharding.AxisType.Auto,) * 2)
  net, params = filled(32, depth=1, width=16, heads=4, hidden=24, tied=False)
  split, placed = 0, {}
  for name, value in params.items():
    spec = next((s for rule, s in SHARDING if re.search(rule, name)), ())
    split += 'model' in spec
    placed[name] = jax.device_put(
        value, NamedSharding(mesh, PartitionSpec(*spec)))
  assert split == 9  # embedding, head, 4 of attention, 3 of the MLP
  tokens = ids(4, 12)
  run = jax.jit(lambda p, t: models.apply(net, p, {}, t).logits)
  got = run(placed, jax.device_put(
      tokens, NamedSharding(mesh, PartitionSpec('data'))))
  np.testing.assert_allclose(got, run(params, tokens), rtol=0, atol=1e-5)
  assert len(got.sharding.device_set) == 8


def test_dropout_hangs_on_the_key():
  net, params = filled(depth=1, width=16, heads=2, dropout=0.5)
  run = jax.jit(lambda key: models.apply(net, params, {}, ids(1, 6),
                                         train=True, key=key).logits)
  a, b = (run(jax.random.key(seed)) for seed in (0, 1))
  np.testing.assert_array_equal(a, run(jax.random.key(0)))
  assert np.abs(a - b).max() > 0.01


def test_scalings_are_what_papers_say():
  freq, one = rotary.frequencies(8, 100.0)
  np.testing.assert_allclose(freq, 100.0 ** (-np.arange(4) / 4), 1e-6)
  assert one == 1
  np.testing.assert_allclose(rotary.frequencies(
      8, 100.0, dict(name='linear', factor=4.0))[0], freq / 4, 1e-6)
  # Fast pairs stay, slow ones are slowed by the factor, in both.
  for scaling in (dict(name='llama3', factor=8.0, original_context=1000),
                  dict(name='yarn', factor=8.0, original_context=1000)):
    got, factor = rotary.frequencies(64, 1e5, scaling)
    plain, _ = rotary.frequencies(64, 1e5)
    np.testing.assert_allclose(got[0], plain[0], 1e-6)
    np.testing.assert_allclose(got[-1], plain[-1] / 8, 1e-6)
    assert (np.diff(got / plain) <= 1e-6).all()
    assert factor == (1 if scaling['name'] == 'llama3' else
                      pytest.approx(0.1 * np.log(8) + 1))


@pytest.mark.parametrize('kw,words', [
    (dict(heads=3), ['width 16', 'head_width']),
    (dict(kv_heads=3), ['heads 4', 'kv_heads 3']),
    (dict(heads=16), ['even', '1']),
    (dict(positions='rotry'), ["mean 'rotary'"]),
    (dict(norm='rmsnorm'), ['norm', "'rmsnorm'"]),
    (dict(activation='gelu_new'), ['activation', 'gelu_tanh']),
    (dict(window=(1, 2, 3)), ['window', '3 entries', '2 blocks']),
    (dict(depth=0), ['depth', '0']),
    (dict(rope_scaling=dict(name='yarm')), ["mean 'yarn'"]),
    (dict(rope_scaling=dict(name='linear', facter=1)), ["mean 'factor'"]),
    (dict(rope_scaling=dict(name='linear')), ['lacks factor']),
    (dict(widht=3), ["mean 'width'"]),
])
def test_refuses(kw, words):
  with pytest.raises(ValueError) as e:
    models.abstract(models.builder('decoder', classes=V, input_shape=(8,),
                                   **TINY | kw))
  for word in words:
    assert word in str(e.value)


@pytest.mark.parametrize('tokens,word', [
    (np.zeros((1, 4), np.float32), 'float32'),
    (np.zeros(4, np.int32), r'\(4,\)'),
    (np.zeros((1, CONTEXT + 1), np.int32), f'context {CONTEXT}')])
def test_refuses_tokens(tokens, word):
  net, params = made('rotary')
  with pytest.raises(core.UserError, match=word):
    models.apply(net, params, {}, tokens)


@kinds
def test_settings_build_it_again(kind):
  net, _ = made(kind)
  model = nnx.eval_shape(models.builder(
      'decoder', classes=V, input_shape=(CONTEXT,), **TINY, **KINDS[kind]))
  again = models.abstract(models.builder(
      'decoder', classes=V, input_shape=(CONTEXT,),
      **models.decoder_settings(model)))
  assert again == net
