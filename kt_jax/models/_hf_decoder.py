"""Configs of Hugging Face's decoders from and to settings of `Decoder`."""
from collections.abc import Mapping
import math
from typing import Any, NamedTuple

from kt_jax import core
from kt_jax.models import _hf as hf
from kt_jax.models import _hf_rotary as hf_rotary

_MOST = 2 ** 24  # tokens and positions
_ACTIVATIONS = dict(
    silu='silu', swish='silu', gelu='gelu', gelu_new='gelu_tanh',
    gelu_pytorch_tanh='gelu_tanh', gelu_fast='gelu_tanh', relu='relu')
_NAMES = dict(silu='silu', gelu='gelu', gelu_tanh='gelu_pytorch_tanh',
              relu='relu')
# Options that `Decoder` does not have -> values that leave them off.
_REFUSED = {
    'quantization_config': (None, {}), 'add_cross_attention': (False, None),
    'scale_attn_by_inverse_layer_idx': (False, None),
    'use_bidirectional_attention': (False, None)}


class Family(NamedTuple):
  architecture: str
  fixed: dict[str, Any]  # settings that all of its models have
  keys: dict[str, Any]  # keys that not all families read -> if absent


_BIAS, _WINDOWS = dict(attention_bias=False), dict(
    use_sliding_window=False, sliding_window=4096, max_window_layers=28,
    layer_types=None)
_GEMMA = dict(norm_offset=1.0)
FAMILIES = {
    'llama': Family('LlamaForCausalLM', {}, dict(
        _BIAS, mlp_bias=False, head_dim=None, num_key_value_heads=None)),
    'mistral': Family('MistralForCausalLM', {}, dict(
        head_dim=None, sliding_window=4096)),
    'qwen2': Family('Qwen2ForCausalLM', dict(qkv_bias=True), dict(
        _WINDOWS, head_dim=None)),
    'qwen3': Family('Qwen3ForCausalLM', dict(query_key_norm=True), dict(
        _BIAS, **_WINDOWS, head_dim=128)),
    'gemma': Family('GemmaForCausalLM', _GEMMA, dict(
        _BIAS, head_dim=256, tie_word_embeddings=True)),
    'gemma2': Family('Gemma2ForCausalLM', dict(_GEMMA, post_norms=True), dict(
        _BIAS, head_dim=256, tie_word_embeddings=True, sliding_window=4096,
        layer_types=None, query_pre_attn_scalar=256,
        attn_logit_softcapping=50.0, final_logit_softcapping=30.0)),
    'gpt2': Family('GPT2LMHeadModel', dict(
        positions='learned', norm='layer', gated=False, qkv_bias=True,
        out_bias=True, mlp_bias=True), dict(tie_word_embeddings=True)),
}


def from_config(config: hf.Config, kind: str, layers: int = 2 ** 16
               ) -> tuple[int, tuple[int], dict[str, Any]]:
  """`(classes, input_shape, settings)` of `models.decoder`.

  Dropout within attention does not exist in `Decoder` and is ignored; it
  matters to training only.

  Args:
    config: of a model of the family.
    kind: a key of `FAMILIES`.
    layers: bounds the depth.

  Raises:
    UserError: a value or option that `Decoder` does not have.
  """
  family = FAMILIES[kind]
  config.get('architectures', [family.architecture],
             lambda v: v in (None, [family.architecture]),
             f'{[family.architecture]}')
  for key, neutral in _REFUSED.items():
    config.get(key, neutral[0], lambda v, n=neutral: v in n,
               f'{neutral[0]}; nothing else is supported')
  settings = dict(family.fixed, tied=config.flag(
      'tie_word_embeddings', family.keys.get('tie_word_embeddings', False)))
  read = _gpt2 if kind == 'gpt2' else _llama
  context, more = read(config, kind, family.keys, layers)
  return config.size('vocab_size', None, _MOST), (context,), settings | more


def to_config(kind: str, classes: int, context: int,
              settings: Mapping[str, Any]) -> dict[str, Any]:
  """A config of a family for full settings, as far as it has keys for them."""
  s, family = settings, FAMILIES[kind]
  values = dict(architectures=[family.architecture], model_type=kind,
                vocab_size=classes, tie_word_embeddings=s['tied'])
  act = _NAMES[s['activation']]
  if kind == 'gpt2':
    return dict(
        values, n_positions=context, n_embd=s['width'], n_layer=s['depth'],
        n_head=s['heads'], n_inner=s['hidden'], layer_norm_epsilon=s['eps'],
        activation_function=act, scale_attn_weights=s['query_scale'] != 1,
        resid_pdrop=s['dropout'], embd_pdrop=s['dropout'], attn_pdrop=0.0)
  windows = _windows(s)
  sizes = sorted(set(windows) - {0}) or [None]
  types = ['sliding_attention' if w else 'full_attention' for w in windows]
  scale = s['query_scale'] or s['head_width'] ** -0.5
  optional = dict(
      head_dim=s['head_width'], attention_bias=s['qkv_bias'],
      mlp_bias=s['mlp_bias'], sliding_window=sizes[-1],
      use_sliding_window=sizes != [None], max_window_layers=0,
      layer_types=types, query_pre_attn_scalar=round(scale ** -2),
      attn_logit_softcapping=s['attention_softcap'] or None,
      final_logit_softcapping=s['logit_softcap'] or None)
  base, scaling = hf_rotary.to_config(s['rope_base'], s['rope_scaling'])
  values |= dict(
      hidden_size=s['width'], num_hidden_layers=s['depth'],
      num_attention_heads=s['heads'], num_key_value_heads=s['kv_heads'],
      intermediate_size=s['hidden'], hidden_act=act, rms_norm_eps=s['eps'],
      max_position_embeddings=context, rope_theta=base, rope_scaling=scaling,
      attention_dropout=0.0,
      **{k: optional[k] for k in family.keys if k in optional})
  if kind.startswith('gemma'):
    values['hidden_activation'] = act
  return values


def choose(classes: int, context: int, settings: Mapping[str, Any]
          ) -> dict[str, Any]:
  """A config of the first family that has the settings.

  Raises:
    UserError: no family has them.
  """
  misfits = {}
  for kind in FAMILIES:
    values = to_config(kind, classes, context, settings)
    try:
      back = from_config(hf.Config(kind, values), kind)[2]
    except core.UserError as e:
      misfits[kind] = [str(e)]
      continue
    misfits[kind] = [
        f'{key} {value!r}' for key, value in settings.items()
        if key not in _FREE and not _same(value, (_DEFAULTS | back)[key])]
    if not misfits[kind]:
      return values
  nearest = min(misfits, key=lambda kind: len(misfits[kind]))
  raise core.UserError(
      'decoder: no family of Hugging Face has these settings; the nearest is '
      f'{nearest}, which does not fit {", ".join(misfits[nearest])}.')


# Settings that a config does not store.
_FREE = ('dropout', 'lora_rank', 'lora_scale')
_DEFAULTS = dict(
    positions='rotary', norm='rms', norm_offset=0.0, qkv_bias=False,
    out_bias=False, mlp_bias=False, query_key_norm=False, gated=True,
    post_norms=False, embed_scale=1.0, window=0, attention_softcap=0.0,
    logit_softcap=0.0, query_scale=0.0, rope_base=10000.0, rope_scaling=None)


def _same(a, b) -> bool:
  if type(a) is float or type(b) is float:
    return math.isclose(a, b, rel_tol=1e-9)
  return (list(a) if isinstance(a, tuple) else a) == (
      list(b) if isinstance(b, tuple) else b)


def _windows(settings) -> list[int]:
  window = settings['window']
  return [window] * settings['depth'] if isinstance(window, int) else window


def _gpt2(config, kind, keys, layers):
  del kind, keys
  width, heads = config.size('n_embd', None), config.size('n_head', None)
  inner = config.values.get('n_inner')
  return config.size('n_positions', None, _MOST), dict(
      depth=config.size('n_layer', None, layers), width=width, heads=heads,
      kv_heads=heads, head_width=width // heads,
      hidden=4 * width if inner is None else config.size('n_inner', None),
      eps=config.number('layer_norm_epsilon', 1e-5, 0, 1),
      activation=_activation(config, 'activation_function', 'gelu_new'),
      query_scale=0.0 if config.flag('scale_attn_weights', True) else 1.0,
      dropout=config.number('resid_pdrop', 0.1, 0, 1))


def _llama(config, kind, keys, layers):
  width = config.size('hidden_size', None)
  heads = config.size('num_attention_heads', None)
  depth = config.size('num_hidden_layers', None, layers)
  context = config.size('max_position_embeddings', None, _MOST)
  bias = 'attention_bias' in keys and config.flag('attention_bias', False)
  size = config.values.get('head_dim', keys['head_dim'])
  groups = config.values.get('num_key_value_heads', 0)
  if groups is None or groups == 0 and 'num_key_value_heads' in keys:
    groups = heads
  else:
    groups = config.size('num_key_value_heads', None)
  settings = dict(
      depth=depth, width=width, heads=heads, kv_heads=groups,
      head_width=width // heads if size is None else config.size(
          'head_dim', size),
      hidden=config.size('intermediate_size', None),
      eps=config.number('rms_norm_eps', 1e-6, 0, 1),
      window=_window(config, keys, depth))
  if bias:
    settings |= dict(qkv_bias=True, out_bias=True)
  if 'mlp_bias' in keys:
    settings['mlp_bias'] = config.flag('mlp_bias', False)
  base, scaling = hf_rotary.from_config(config, context)
  settings |= dict(rope_base=base, rope_scaling=scaling)
  if not kind.startswith('gemma'):
    return context, dict(settings, activation=_activation(
        config, 'hidden_act', 'silu'))
  # Files of the first Gemma name gelu and mean its tanh form.
  key = 'hidden_activation' if config.values.get('hidden_activation') else (
      'hidden_act')
  act = 'gelu_tanh' if (key, config.values.get(key)) == (
      'hidden_act', 'gelu') else _activation(config, key, 'gelu_pytorch_tanh')
  settings |= dict(activation=act, embed_scale=width ** 0.5)
  if kind == 'gemma2':
    cap = lambda key: 0.0 if config.values.get(key, 1) is None else (
        float(config.number(key, keys[key], 1e-3, 1e6)))
    scalar = config.number('query_pre_attn_scalar', 256, 1e-3, 1e6)
    settings |= dict(attention_softcap=cap('attn_logit_softcapping'),
                     logit_softcap=cap('final_logit_softcapping'),
                     query_scale=0.0 if scalar == settings['head_width'] else
                     scalar ** -0.5)
  return context, settings


def _activation(config, key, default):
  return _ACTIVATIONS[config.choice(key, default, list(_ACTIVATIONS))]


def _window(config, keys, depth):
  """One number, or one per block."""
  on = 'sliding_window' in keys and config.flag(
      'use_sliding_window', True if 'use_sliding_window' not in keys else False)
  if not on or config.values.get('sliding_window', 0) is None:
    return 0
  size = config.size('sliding_window', keys['sliding_window'], _MOST)
  kinds = ('full_attention', 'sliding_attention')
  types = config.get(
      'layer_types', None, lambda v: v is None or isinstance(v, list)
      and len(v) == depth and all(x in kinds for x in v),
      f'null or {depth} of {", ".join(kinds)}')
  if 'max_window_layers' in keys:
    full = config.get('max_window_layers', keys['max_window_layers'],
                      lambda v: type(v) is int and v >= 0, 'a whole number')
    default = [i >= full for i in range(depth)]
  else:
    default = [i % 2 == 0 or 'layer_types' not in keys for i in range(depth)]
  slides = [t == kinds[1] for t in types] if types else default
  windows = [size if s else 0 for s in slides]
  return windows[0] if len(set(windows)) == 1 else windows
