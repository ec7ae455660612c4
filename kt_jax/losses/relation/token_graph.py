"""Token-level relationship graph."""
import jax
from jax import numpy as jnp

from kt_jax import core
from kt_jax.losses.relation import pairs
from kt_jax.losses.response.kd import kd

FN = 'token_graph'


def token_graph(
    student_features: jax.Array,
    teacher_features: jax.Array,
    student_embeddings: jax.Array | None = None,
    teacher_embeddings: jax.Array | None = None,
    where: jax.Array | None = None,
    key: jax.Array | None = None,
    *,
    local: float = 1.0,
    globally: float = 1.0,
    inner: float = 1.0,
    neighbours: int = 8,
    tokens: int = 0,
    sigma: float | None = None,
    local_temperature: float = 0.1,
    temperature: float | jax.Array = 0.1,
) -> jax.Array:
  r"""Relations between the tokens of all images, and within each image.

    local * L_local + globally * L_global + inner * L_inner, where
    L_local  = mean_i KL(row_i(A^t) || row_i(A^s)), rows softmax(A_i / 0.1),
               A_ij = exp(-|x_i - x_j|^2 / (2 sigma)) if i is one of the k
               nearest of j, else 0, over the M tokens drawn from the batch,
    L_global = mean_i - log softmax_j(cos(s_i, t_j) / tau) at j = i,
    L_inner  = mean over the rows of an image of |C^s - C^t|^2,
               C = softmax(F F^T / sqrt(D)) over all its tokens.

  Args:
    student_features: `[B, N, D]` tokens, or a map `[B, H, W, D]`.
    teacher_features: the same B and N, of any width if L_global has embeddings;
      no gradient is stopped here.
    student_embeddings: `[B, N, E]` or a map, of what L_global compares; None:
      the features. `modules.TokenGraph` makes them.
    teacher_embeddings: the same shape.
    where: `[B]` bool, the images that count; None: all.
    key: draws which tokens of an image; the same in both nets.
    local: weight, as `globally` and `inner`; a part of weight 0 is left out.
    globally: weight.
    inner: weight.
    neighbours: k >= 1.
    tokens: how many an image are drawn; 0: all. M^2 floats are held for each
      net, M = B times these.
    sigma: > 0; None: each net's own median squared distance, held fixed.
    local_temperature: > 0, the 0.1 above.
    temperature: tau > 0, which the paper lowers as training goes on.

  Returns:
    `[B]` shares, at least float32, in nats (L_inner: none): of each token or
    row the part above, averaged over the image, so that their mean over valid
    images is the value. L_global has a floor above 0.

  Departures: A is divided by 0.1, without which the softmax is almost uniform
  and the mean inert (in print: a sum, no division). The direction of the
  divergence (to the teacher's rows), sigma and tau are ours: the paper's were
  not confirmed.

  References: zhang2023trg.
  """
  core.check_positive(
      FN, neighbours=neighbours, temperature=temperature,
      local_temperature=local_temperature,
      **({} if sigma is None else {'sigma': sigma}))
  s, t = _tokens(student_features), _tokens(teacher_features)
  if s.shape[:2] != t.shape[:2]:
    raise ValueError(
        f'{FN}: student_features make tokens {s.shape}, teacher_features '
        f'{t.shape}; they must agree in images and tokens.')
  if tokens and (not 0 < tokens <= s.shape[1] or key is None):
    raise ValueError(f'{FN}: tokens must be in 0..{s.shape[1]}, with a key if '
                     f'not 0; got {tokens}, key {key}.')
  embedded = (student_embeddings, teacher_embeddings)
  if (embedded[0] is None) != (embedded[1] is None):
    raise ValueError(f'{FN}: student_embeddings and teacher_embeddings come '
                     'together.')
  s_e, t_e = (s, t) if embedded[0] is None else map(_tokens, embedded)
  if globally and (s_e.shape != t_e.shape or s_e.shape[:2] != s.shape[:2]):
    raise ValueError(f'{FN}: L_global compares {s_e.shape} with {t_e.shape}; '
                     f'both must be [B, N, E] of B, N = {s.shape[:2]}, as '
                     'modules.TokenGraph makes them.')

  valid = pairs.valid_rows(FN, s, where)
  s, t, s_e, t_e = (pairs.blank(x, valid) for x in (s, t, s_e, t_e))
  total = jnp.zeros(valid.shape)
  if inner:
    gap = _context(s) - _context(t)
    total += inner * jnp.mean(jnp.sum(jnp.square(gap), axis=-1), axis=-1)
  if tokens:
    s, t, s_e, t_e = _drawn(key, tokens, s, t, s_e, t_e)
  ours = lambda x: jnp.mean(x.reshape(len(valid), -1), axis=-1)
  kept = jnp.repeat(valid, s.shape[1])
  if local:
    rows = (jnp.where(kept, _graph(x, kept, neighbours, sigma)
                      / local_temperature, -jnp.inf) for x in (s, t))
    total += local * ours(kd(*rows, temperature=1.0))
  if globally:
    flat = lambda x: core.unit(x.reshape(-1, x.shape[-1]))
    score = core.dot(flat(s_e), flat(t_e)) / temperature
    column = kept | jnp.eye(len(kept), dtype=bool)
    total += globally * ours(pairs.nll(score, column))
  return total


def _tokens(x):
  x = pairs.single(FN, x)
  if x.ndim not in (3, 4):
    raise ValueError(f'{FN}: tokens must be [B, N, D] or [B, H, W, D], got '
                     f'{x.shape}.')
  return x.reshape(x.shape[0], -1, x.shape[-1])


def _context(x):
  return jax.nn.softmax(core.dot(x, x) / jnp.sqrt(x.shape[-1]))


def _drawn(key, tokens, *arrays):
  """`[B, tokens, D]` of each, by a key an image: padding changes no draw."""
  b, n = arrays[0].shape[:2]
  keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(b))
  order = jax.vmap(lambda k: jax.random.permutation(k, n))(keys)[:, :tokens]
  return [jnp.take_along_axis(x, order[..., None], axis=1) for x in arrays]


def _median(values, valid):
  """Of the valid ones of non-negative `values`.

  These are ordered as their bits are, and integers sort much faster on CPU.
  """
  bits = jax.lax.bitcast_convert_type(values.astype(jnp.float32), jnp.uint32)
  last = jnp.array(jnp.iinfo(jnp.uint32).max, jnp.uint32)
  bits = jnp.sort(jnp.where(valid, bits, last).ravel())
  count = jnp.maximum(jnp.sum(valid), 1)
  middle = bits[jnp.stack([(count - 1) // 2, count // 2])]
  return jnp.mean(jax.lax.bitcast_convert_type(middle, jnp.float32))


def _graph(x, kept, neighbours, sigma):
  """`[M, M]` weights A of the tokens `[B, N, D]`."""
  square = core.squared_distances(x.reshape(-1, x.shape[-1]))
  size = len(square)
  pair = pairs.both(kept) & ~jnp.eye(size, dtype=bool)
  _, near = jax.lax.top_k(jnp.where(pair, -square, -jnp.inf),
                          min(neighbours, size))
  edge = jnp.zeros_like(pair).at[near, jnp.arange(size)[:, None]].set(True)
  if sigma is None:
    middle = _median(jax.lax.stop_gradient(square), pair)
    sigma = jnp.where(middle > 0, middle, 1)
  edge &= pair
  return jnp.where(edge, jnp.exp(-jnp.where(edge, square, 0) / (2 * sigma)), 0)
