"""Token-level relationship graph."""
import jax
from jax import numpy as jnp

from kt_jax import core
from kt_jax.losses import _rows
from kt_jax.losses.relation import _pairs
from kt_jax.losses.response.kd import kd

_FN = 'token_graph'


def token_graph(
    student_features: jax.Array,
    teacher_features: jax.Array,
    student_embeddings: jax.Array | None = None,
    teacher_embeddings: jax.Array | None = None,
    where: jax.Array | None = None,
    key: jax.Array | None = None,
    *,
    local_weight: float = 1.0,
    global_weight: float = 1.0,
    inner_weight: float = 1.0,
    neighbors: int = 8,
    tokens: int = 0,
    sigma: float | None = None,
    local_temperature: float = 0.1,
    temperature: float | jax.Array = 0.1,
) -> jax.Array:
  r"""Relations between the tokens of all images, and within each image.

    a L_local + b L_global + c L_inner, where
    L_local  = mean_i KL(row_i(A^t) || row_i(A^s)), rows softmax(A_i / 0.1),
               A_ij = exp(-|x_i - x_j|^2 / (2 sigma)) if i is one of the k
               nearest of j, else 0, over the M tokens sampled from the batch,
    L_global = mean_i - log softmax_j(cos(s_i, t_j) / tau) at j = i,
    L_inner  = mean over the rows of an image of |C^s - C^t|^2,
               C = softmax(F F^T / sqrt(D)) over all its tokens,
    a, b, c = local_weight, global_weight, inner_weight.

  Args:
    student_features: `[B, N, D]` tokens, or a map `[B, H, W, D]`.
    teacher_features: the same B and N, of any width if L_global has embeddings;
      no gradient is stopped here.
    student_embeddings: `[B, N, E]` or a map, compared by L_global; None: the
      features. `modules.TokenGraph` computes them.
    teacher_embeddings: the same shape.
    where: `[B]` bool, the images that count; None: all.
    key: random key that samples the tokens, the same in both networks.
    local_weight: a; a part of weight 0 is left out.
    global_weight: b.
    inner_weight: c.
    neighbors: k >= 1.
    tokens: how many are sampled per image; 0: all. M^2 floats are held per
      network, M = B times these.
    sigma: > 0; None: each network's median squared distance, a constant.
    local_temperature: > 0, the 0.1 above.
    temperature: tau > 0, which the paper lowers during training.

  Returns:
    `[B]` shares, at least float32, in nats (L_inner: none): of each token or
    row the part above, averaged over the image, so that their mean over valid
    images is the value. L_global has a floor above 0.

  Departures: A is divided by 0.1, without which the softmax is almost uniform
  and the mean has no effect (the paper: a sum, not divided). The direction of
  the divergence (to the teacher's rows), sigma and tau are ours: the paper's
  were not confirmed.

  References: zhang2023trg.
  """
  core.check_positive(
      _FN, neighbors=neighbors, temperature=temperature,
      local_temperature=local_temperature,
      **({} if sigma is None else {'sigma': sigma}))
  s, t = _tokens(student_features), _tokens(teacher_features)
  if s.shape[:2] != t.shape[:2]:
    raise ValueError(
        f'{_FN}: student_features are tokens {s.shape}, teacher_features '
        f'{t.shape}; they must agree in images and tokens.')
  if tokens and (not 0 < tokens <= s.shape[1] or key is None):
    raise ValueError(f'{_FN}: tokens must be in 0..{s.shape[1]}, with a key if '
                     f'not 0, got {tokens}, key {key}.')
  embeddings = (student_embeddings, teacher_embeddings)
  if (embeddings[0] is None) != (embeddings[1] is None):
    raise ValueError(f'{_FN}: student_embeddings and teacher_embeddings are '
                     'needed together.')
  s_e, t_e = (s, t) if embeddings[0] is None else map(_tokens, embeddings)
  if global_weight and (s_e.shape != t_e.shape or s_e.shape[:2] != s.shape[:2]):
    raise ValueError(f'{_FN}: L_global compares {s_e.shape} with {t_e.shape}; '
                     f'both must be [B, N, E] with B, N = {s.shape[:2]}: '
                     'use modules.TokenGraph.')

  valid = _rows.valid_rows(_FN, s, where)
  s, t, s_e, t_e = (_rows.blank(x, valid) for x in (s, t, s_e, t_e))
  total = jnp.zeros(valid.shape)
  if inner_weight:
    gap = _context(s) - _context(t)
    total += inner_weight * jnp.mean(jnp.sum(jnp.square(gap), axis=-1), axis=-1)
  if tokens:
    s, t, s_e, t_e = _sample(key, tokens, s, t, s_e, t_e)
  image_mean = lambda x: jnp.mean(x.reshape(len(valid), -1), axis=-1)
  valid_token = jnp.repeat(valid, s.shape[1])
  if local_weight:
    s_rows, t_rows = (
        jnp.where(valid_token, _graph(x, valid_token, neighbors, sigma)
                  / local_temperature, -jnp.inf) for x in (s, t))
    total += local_weight * image_mean(kd(s_rows, t_rows, temperature=1.0))
  if global_weight:
    flat = lambda x: core.unit(x.reshape(-1, x.shape[-1]))
    score = core.dot(flat(s_e), flat(t_e)) / temperature
    column = valid_token | jnp.eye(len(valid_token), dtype=bool)
    total += global_weight * image_mean(_pairs.nll(score, column))
  return total


def _tokens(x):
  x = _pairs.single(_FN, x)
  if x.ndim not in (3, 4):
    raise ValueError(f'{_FN}: tokens must be [B, N, D] or [B, H, W, D], got '
                     f'{x.shape}.')
  return x.reshape(x.shape[0], -1, x.shape[-1])


def _context(x):
  return jax.nn.softmax(core.dot(x, x) / jnp.sqrt(x.shape[-1]))


def _sample(key, tokens, *arrays):
  """`[B, tokens, D]` of each, by a key per image: padding changes no sample."""
  b, n = arrays[0].shape[:2]
  keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(b))
  order = jax.vmap(lambda k: jax.random.permutation(k, n))(keys)[:, :tokens]
  return [jnp.take_along_axis(x, order[..., None], axis=1) for x in arrays]


def _median(values, valid):
  """Median of the valid ones of non-negative `values`.

  The order of these floats is that of their bits, and integers sort much faster
  on CPU.
  """
  bits = jax.lax.bitcast_convert_type(values.astype(jnp.float32), jnp.uint32)
  last = jnp.array(jnp.iinfo(jnp.uint32).max, jnp.uint32)
  bits = jnp.sort(jnp.where(valid, bits, last).ravel())
  count = jnp.maximum(jnp.sum(valid), 1)
  middle = bits[jnp.stack([(count - 1) // 2, count // 2])]
  return jnp.mean(jax.lax.bitcast_convert_type(middle, jnp.float32))


def _graph(x, valid, neighbors, sigma):
  """`[M, M]` weights A of the tokens `[B, N, D]`."""
  square = core.squared_distances(x.reshape(-1, x.shape[-1]))
  size = len(square)
  pair = _pairs.both(valid) & ~jnp.eye(size, dtype=bool)
  _, near = jax.lax.top_k(jnp.where(pair, -square, -jnp.inf),
                          min(neighbors, size))
  edge = jnp.zeros_like(pair).at[near, jnp.arange(size)[:, None]].set(True)
  if sigma is None:
    middle = _median(jax.lax.stop_gradient(square), pair)
    sigma = jnp.where(middle > 0, middle, 1)
  edge &= pair
  return jnp.where(edge, jnp.exp(-jnp.where(edge, square, 0) / (2 * sigma)), 0)
