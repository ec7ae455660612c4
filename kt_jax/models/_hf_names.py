"""Names of our parameters in files of Hugging Face's decoders."""
import re
from typing import NamedTuple

_OUTER = {'embed': 'model.embed_tokens', 'norm': 'model.norm',
          'head': 'lm_head'}
_INNER = {
    'norm1': 'input_layernorm', 'norm2': 'post_attention_layernorm',
    'attention/query': 'self_attn.q_proj', 'attention/key': 'self_attn.k_proj',
    'attention/value': 'self_attn.v_proj', 'attention/out': 'self_attn.o_proj',
    'attention/query_norm': 'self_attn.q_norm',
    'attention/key_norm': 'self_attn.k_norm', 'mlp/gate': 'mlp.gate_proj',
    'mlp/up': 'mlp.up_proj', 'mlp/down': 'mlp.down_proj'}
_GEMMA2 = dict(
    _INNER, norm2='pre_feedforward_layernorm', post1='post_attention_layernorm',
    post2='post_feedforward_layernorm')
_GPT2_OUTER = {'embed': 'transformer.wte', 'position': 'transformer.wpe',
               'norm': 'transformer.ln_f', 'head': 'lm_head'}
_GPT2 = {'norm1': 'ln_1', 'norm2': 'ln_2', 'attention/query': 'attn.c_attn',
         'attention/key': 'attn.c_attn', 'attention/value': 'attn.c_attn',
         'attention/out': 'attn.c_proj', 'mlp/up': 'mlp.c_fc',
         'mlp/down': 'mlp.c_proj'}
_THIRDS = ('attention/query', 'attention/key', 'attention/value')
# Computed, not learned; files of some versions have them.
_BUFFERS = re.compile(
    r'(.*\.)?(rotary_emb\.inv_freq|attn\.(bias|masked_bias))')


class Place(NamedTuple):
  """The tensor of a file that a parameter is stored in."""
  name: str
  transposed: bool  # torch has (out, in)
  third: int | None  # of its last axis, where query, key and value are one


def place(kind: str, path: str) -> Place:
  """The place of our parameter `path` in files of the family `kind`."""
  parent, leaf = path.rsplit('/', 1)
  suffix = '.bias' if leaf == 'bias' else '.weight'
  block = re.fullmatch(r'blocks/(\d+)/(.+)', parent)
  gpt2 = kind == 'gpt2'
  if not block:
    outer = _GPT2_OUTER if gpt2 else _OUTER
    return Place(outer[parent] + suffix, leaf == 'kernel', None)
  number, inner = block.groups()
  if gpt2:
    third = _THIRDS.index(inner) if inner in _THIRDS else None
    return Place(f'transformer.h.{number}.{_GPT2[inner]}{suffix}', False,
                 third)
  table = _GEMMA2 if kind == 'gemma2' else _INNER
  return Place(f'model.layers.{number}.{table[inner]}{suffix}',
               leaf == 'kernel', None)


def canonical(kind: str, name: str) -> str:
  """A tensor's name with the prefix that files of bare models lack."""
  prefix = 'transformer.' if kind == 'gpt2' else 'model.'
  return name if name.startswith((prefix, 'lm_head.')) else prefix + name


def is_buffer(name: str) -> bool:
  """Whether a tensor is computed from the config."""
  return _BUFFERS.fullmatch(name) is not None
