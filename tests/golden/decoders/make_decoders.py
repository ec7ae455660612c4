"""Makes the tiny decoders beside this file, and their logits.

Run once, in an environment of its own; neither package is one of kt_jax's:

  python3.11 -m venv /tmp/ref
  /tmp/ref/bin/pip install torch==2.13.0 transformers==5.23.0 safetensors numpy
  /tmp/ref/bin/python tests/golden/decoders/make_decoders.py

With a directory it makes nothing: what `models.save_pretrained` wrote there,
each with tokens and logits in golden.npz, is loaded, and the largest difference
printed.

What is stored was made with torch 2.13.0+cpu, transformers 5.23.0, safetensors
0.8.0 and numpy 2.4.6 on Python 3.11. Weights are random, those of norms and
biases too; nothing is downloaded.
"""
import json
import pathlib
import shutil
import sys

import numpy as np
import torch
import transformers

HERE = pathlib.Path(__file__).parent
V = 97
SIZES = dict(
    vocab_size=V, hidden_size=32, intermediate_size=40, num_hidden_layers=2,
    num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
    bos_token_id=1, eos_token_id=2, pad_token_id=0)


def _gpt2(**kw):
  return transformers.GPT2LMHeadModel(transformers.GPT2Config(
      vocab_size=V, n_positions=64, n_embd=32, n_layer=2, n_head=4,
      bos_token_id=1, eos_token_id=2, **kw))


def _make(family, **kw):
  config = getattr(transformers, f'{family}Config')(**(SIZES | kw))
  return getattr(transformers, f'{family}ForCausalLM')(config)


LLAMA3 = dict(rope_type='llama3', rope_theta=500.0, factor=4.0,
              low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=32)
YARN = dict(rope_type='yarn', rope_theta=1000.0, factor=4.0,
            original_max_position_embeddings=16)
MODELS = {
    'gpt2': _gpt2,
    'gpt2_untied': lambda: _gpt2(
        n_inner=40, tie_word_embeddings=False, scale_attn_weights=False,
        activation_function='gelu'),
    'llama': lambda: _make('Llama', rms_norm_eps=1e-5),
    'llama3': lambda: _make(
        'Llama', rope_parameters=LLAMA3, attention_bias=True, mlp_bias=True,
        head_dim=16, tie_word_embeddings=True),
    'llama_linear': lambda: _make(
        'Llama', rope_parameters=dict(rope_type='linear', factor=2.0,
                                      rope_theta=10000.0)),
    'mistral': lambda: _make('Mistral', sliding_window=5),
    'qwen2': lambda: _make(
        'Qwen2', num_hidden_layers=3, use_sliding_window=True,
        sliding_window=4, max_window_layers=1, tie_word_embeddings=True,
        intermediate_size=24),
    'qwen2_yarn': lambda: _make(
        'Qwen2', rope_parameters=YARN, hidden_size=64, intermediate_size=16,
        tie_word_embeddings=True),
    'qwen3': lambda: _make('Qwen3', head_dim=12, attention_bias=True),
    'gemma': lambda: _make('Gemma', head_dim=12),
    'gemma2': lambda: _make(
        'Gemma2', head_dim=8, sliding_window=4, query_pre_attn_scalar=10,
        attn_logit_softcapping=2.0, final_logit_softcapping=3.0),
}
SHARDED = {'llama_linear': '30KB'}  # into files of about this size
PADDED = {'llama3': 8}  # vocabularies up to a multiple of it


def _randomise(model, generator):
  with torch.no_grad():
    for name, value in model.named_parameters():
      noise = torch.randn(value.shape, generator=generator)
      if value.ndim == 2:
        value.copy_(noise / 4)
      elif 'norm' in name or '.ln_' in name:
        value.copy_(0.3 * noise + (
            name.endswith('weight') and 'Gemma' not in type(model).__name__))
      else:
        value.copy_(0.3 * noise)


def _logits(model, tokens, mask):
  positions = torch.clamp(torch.tensor(mask).long().cumsum(1) - 1, min=0)
  with torch.no_grad():
    return model(torch.tensor(tokens).long(), position_ids=positions,
                 attention_mask=torch.tensor(mask).long()).logits.numpy()


def _make_all():
  rng = np.random.default_rng(0)
  for name, build in MODELS.items():
    torch.manual_seed(0)
    model = build()
    if name in PADDED:
      model.resize_token_embeddings(pad_to_multiple_of=PADDED[name])
    model = model.eval()
    model.set_attn_implementation('eager')
    _randomise(model, torch.Generator().manual_seed(len(name)))
    out = HERE / name
    shutil.rmtree(out, ignore_errors=True)
    model.save_pretrained(out, max_shard_size=SHARDED.get(name, '1GB'))
    (out / 'generation_config.json').unlink(missing_ok=True)
    if name == 'llama_linear':  # as transformers 4 wrote it
      file = out / 'config.json'
      config = json.loads(file.read_text())
      del config['rope_parameters'], config['dtype']
      config |= dict(rope_theta=10000.0, torch_dtype='float32',
                     rope_scaling=dict(type='linear', factor=2.0))
      file.write_text(json.dumps(config, indent=2))
      model = transformers.AutoModelForCausalLM.from_pretrained(
          out, attn_implementation='eager').eval()
    tokens = rng.integers(3, V, (3, 14)).astype(np.int32)
    mask = np.ones(tokens.shape, bool)
    mask[1, :5] = mask[2, :9] = False
    np.savez_compressed(
        out / 'golden.npz', tokens=tokens, mask=mask,
        logits=_logits(model, tokens, mask),
        greedy=_greedy(model, tokens, mask))


def _greedy(model, tokens, mask):
  found = model.generate(
      torch.tensor(tokens).long(), attention_mask=torch.tensor(mask).long(),
      do_sample=False, max_new_tokens=8, min_new_tokens=8)
  return found[:, tokens.shape[1]:].numpy().astype(np.int32)


def _check(folder):
  for out in sorted(path.parent for path in folder.glob('*/golden.npz')):
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        out, attn_implementation='eager', output_loading_info=True)
    golden = np.load(out / 'golden.npz')
    got = _logits(model.eval().float(), golden['tokens'], golden['mask'])
    gap = np.abs(got - golden['logits'])[golden['mask']].max()
    odd = {k: v for k, v in info.items() if v}
    print(f'{out.name:14} {type(model).__name__:20} {gap:.1e} {odd or ""}')


if __name__ == '__main__':
  if len(sys.argv) > 1:
    _check(pathlib.Path(sys.argv[1]))
  else:
    _make_all()
