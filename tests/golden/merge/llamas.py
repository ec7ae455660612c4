"""Small random Llama checkpoints; numpy alone, for make_merged.py and tests."""
import json
import pathlib
import zlib

import numpy as np

HIDDEN, INNER, VOCAB, LAYERS = 16, 32, 32, 4  # few shapes: few compilations
# How far each model is from the base.
MODELS = dict(base=0.0, a=0.02, b=0.05, c=0.01)
CONFIG = dict(
    architectures=['LlamaForCausalLM'], model_type='llama', hidden_size=HIDDEN,
    intermediate_size=INNER, num_hidden_layers=LAYERS, num_attention_heads=2,
    num_key_value_heads=2, head_dim=8, vocab_size=VOCAB, rms_norm_eps=1e-5,
    max_position_embeddings=64, hidden_act='silu', tie_word_embeddings=False,
    attention_bias=False, mlp_bias=False, initializer_range=0.02,
    bos_token_id=1, eos_token_id=2, rope_theta=10000.0)


def shapes():
  """Name -> shape."""
  found = {'model.embed_tokens.weight': (VOCAB, HIDDEN)}
  for n in range(LAYERS):
    layer = dict(
        input_layernorm=(HIDDEN,), post_attention_layernorm=(HIDDEN,), **{
            'self_attn.q_proj': (HIDDEN, HIDDEN),
            'self_attn.k_proj': (HIDDEN, HIDDEN),
            'self_attn.v_proj': (HIDDEN, HIDDEN),
            'self_attn.o_proj': (HIDDEN, HIDDEN),
            'mlp.gate_proj': (INNER, HIDDEN), 'mlp.up_proj': (INNER, HIDDEN),
            'mlp.down_proj': (HIDDEN, INNER)})
    found |= {f'model.layers.{n}.{k}.weight': s for k, s in layer.items()}
  return found | {'model.norm.weight': (HIDDEN,),
                  'lm_head.weight': (VOCAB, HIDDEN)}


def draw(model, name, shape):
  rng = np.random.default_rng(zlib.crc32(f'{model} {name}'.encode()))
  return rng.standard_normal(shape).astype(np.float32)


def tensors(model):
  """Name -> float32 array. c has the base's first layer."""
  found = {}
  for name, shape in shapes().items():
    base = np.float32(0.1) * draw('base', name, shape)
    if 'norm' in name:
      base += np.float32(1)
    move = np.float32(MODELS[model]) * draw(model, name, shape)
    found[name] = base if model == 'c' and 'layers.0.' in name else base + move
  return found


def to_bf16(array):
  """Bits of bfloat16, rounded to nearest even."""
  bits = np.asarray(array, np.float32).view(np.uint32)
  return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def save(folder, arrays, config=None):
  """Writes a directory; uint16 arrays are bfloat16."""
  folder = pathlib.Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  header, data = {'__metadata__': {'format': 'pt'}}, b''
  for name, array in arrays.items():
    raw = np.ascontiguousarray(array).tobytes()
    word = {2: 'BF16', 4: 'F32'}[array.dtype.itemsize]
    header[name] = dict(dtype=word, shape=list(array.shape),
                        data_offsets=[len(data), len(data) + len(raw)])
    data += raw
  text = json.dumps(header).encode()
  text += b' ' * (-len(text) % 8)
  (folder / 'model.safetensors').write_bytes(
      len(text).to_bytes(8, 'little') + text + data)
  config = dict(CONFIG if config is None else config)
  config['torch_dtype'] = {2: 'bfloat16', 4: 'float32'}[array.dtype.itemsize]
  (folder / 'config.json').write_text(json.dumps(config, indent=2))


def write(root):
  """f32/base ... and bf16/base ... under `root`."""
  for model in MODELS:
    arrays = tensors(model)
    save(pathlib.Path(root) / 'f32' / model, arrays)
    save(pathlib.Path(root) / 'bf16' / model,
         {name: to_bf16(array) for name, array in arrays.items()})


def load(folder):
  """Name -> float32 or uint16 array of a directory that has one file."""
  data = (pathlib.Path(folder) / 'model.safetensors').read_bytes()
  length = int.from_bytes(data[:8], 'little')
  header = json.loads(data[8:8 + length])
  header.pop('__metadata__', None)
  return {name: np.frombuffer(
      data, {'BF16': np.uint16, 'F32': np.float32}[entry['dtype']],
      (entry['data_offsets'][1] - entry['data_offsets'][0])
      // (2 if entry['dtype'] == 'BF16' else 4),
      8 + length + entry['data_offsets'][0]).reshape(entry['shape'])
          for name, entry in header.items()}
