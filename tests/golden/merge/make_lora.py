"""Makes lora/: tiny models, PEFT adapters, and what peft merges of them.

Run once, in an environment of its own: python make_lora.py. What is stored was
made with torch 2.13.0, transformers 5.23.0, peft 0.21.2 and safetensors on
Python 3.11; weights are random, nothing is downloaded.
"""
import json
import pathlib
import shutil

import peft
from safetensors import numpy as st
import torch
from torch import nn
import transformers

OUT = pathlib.Path(__file__).parent / 'lora'


class Odd(nn.Module):
  """A convolution, a square matrix and one without a bias."""

  def __init__(self):
    super().__init__()
    self.conv = nn.Conv2d(3, 4, 3)
    self.point = nn.Conv2d(4, 4, 1)
    self.square = nn.Linear(6, 6)
    self.flat = nn.Linear(6, 5, bias=False)

  def forward(self, x):
    return self.flat(self.square(self.point(self.conv(x))))


def llama():
  return transformers.LlamaForCausalLM(transformers.LlamaConfig(
      vocab_size=23, hidden_size=8, intermediate_size=12, num_hidden_layers=2,
      num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=16,
      tie_word_embeddings=False))


def gpt2():
  return transformers.GPT2LMHeadModel(transformers.GPT2Config(
      vocab_size=23, n_embd=8, n_layer=1, n_head=2, n_positions=16,
      tie_word_embeddings=False))


# Model, dtype, settings of the adapter.
CASES = {
    'plain': (llama, torch.float32, dict(
        r=4, lora_alpha=6, target_modules=['q_proj', 'down_proj'])),
    'rslora': (llama, torch.float32, dict(
        r=4, lora_alpha=6, use_rslora=True, target_modules=['v_proj'])),
    'pattern': (llama, torch.float32, dict(
        r=4, lora_alpha=6, target_modules=['q_proj', 'k_proj', 'o_proj'],
        rank_pattern={r'layers\.1\.self_attn\.q_proj': 2, 'o_proj': 3},
        alpha_pattern={'model.layers.0.self_attn.k_proj': 1})),
    'whole': (llama, torch.float32, dict(
        r=2, lora_alpha=2, target_modules=['q_proj'],
        modules_to_save=['lm_head', 'input_layernorm'])),
    'embedding': (llama, torch.float32, dict(
        r=2, lora_alpha=3, target_modules=['embed_tokens', 'q_proj'])),
    'half': (llama, torch.bfloat16, dict(
        r=4, lora_alpha=6, target_modules='all-linear')),
    'conv1d': (gpt2, torch.float32, dict(
        r=2, lora_alpha=5, target_modules=['c_attn', 'c_proj', 'lm_head'])),
    'bias': (Odd, torch.float32, dict(
        r=2, lora_alpha=4, target_modules=['square', 'flat', 'conv', 'point'],
        bias='all')),
    'lora_bias': (Odd, torch.float32, dict(
        r=2, lora_alpha=4, target_modules=['square'], lora_bias=True)),
}


def main():
  shutil.rmtree(OUT, ignore_errors=True)
  for name, (make, dtype, settings) in CASES.items():
    torch.manual_seed(len(name))
    model = make().to(dtype)
    folder = OUT / name
    base = folder / 'base'
    base.mkdir(parents=True)
    state = lambda m: {k: v.detach().float().numpy().copy()
                       for k, v in m.state_dict().items()}
    if hasattr(model, 'save_pretrained'):
      model.save_pretrained(base)
      for extra in base.glob('generation_config.json'):
        extra.unlink()
    else:
      st.save_file(state(model), base / 'model.safetensors')
    adapted = peft.get_peft_model(model, peft.LoraConfig(**settings))
    with torch.no_grad():
      for p in adapted.parameters():
        if p.requires_grad:
          p.copy_(torch.randn(p.shape) * 0.3)
    adapted.save_pretrained(folder / 'adapter')
    for extra in (folder / 'adapter').glob('README.md'):
      extra.unlink()
    config = folder / 'adapter' / 'adapter_config.json'
    config.write_text(json.dumps(json.loads(config.read_text()), indent=1))
    st.save_file(state(adapted.merge_and_unload()),
                 folder / 'merged.safetensors')


if __name__ == '__main__':
  main()
