"""Makes merged.npz and merged_configs.json: what mergekit makes of recipes.

Run with mergekit 0.1.5, torch 2.13.0 on the CPU, transformers 5:
  python tests/golden/merge/make_merged.py
`llamas.py` makes the models, nothing is downloaded. Arrays are named
'recipe tensor'; bfloat16 and float16 are stored as their bits.
"""
import json
import os
import pathlib
import tempfile

import llamas
from mergekit.scripts import multimerge
from mergekit.scripts import run_yaml
import numpy as np
from safetensors import torch as st
import torch
import yaml

HERE = pathlib.Path(__file__).parent
KEPT = ('num_hidden_layers', 'vocab_size', 'tie_word_embeddings', 'hidden_size',
        'architectures', 'dtype')
# Which models, where not bf16.
READ = dict(ties='f32', ties_sum='f32', sce='f32', nearswap='f32', slerp='f32',
            linear_sum='f32', task_arithmetic='f32', breadcrumbs='f32',
            breadcrumbs_ties='f32', sce_all='f32', arcee_fusion='f32')


def main():
  recipes = yaml.safe_load((HERE / 'merged_recipes.yml').read_text())
  arrays, configs = {}, {}
  with tempfile.TemporaryDirectory() as folder:
    os.chdir(folder)
    llamas.write('.')
    for name, text in recipes.items():
      pathlib.Path('recipe.yml').write_text(
          text.replace('FROM', READ.get(name, 'bf16')))
      command, args = run_yaml.main, ['recipe.yml', name]
      if '---' in text:
        command, args = multimerge.main, ['recipe.yml', '--out-path', name,
                                          '-I', 'stages']
      args += ['--no-copy-tokenizer', '--no-write-model-card', '--quiet']
      command(args, standalone_mode=False)
      for key, tensor in st.load_file(f'{name}/model.safetensors').items():
        if tensor.dtype in (torch.bfloat16, torch.float16):
          tensor = tensor.view(torch.int16).numpy().view(np.uint16)
        arrays[f'{name} {key}'] = np.asarray(tensor)
      config = json.loads(pathlib.Path(name, 'config.json').read_text())
      configs[name] = dict(read=READ.get(name, 'bf16'),
                           **{k: config[k] for k in KEPT})
  np.savez_compressed(HERE / 'merged.npz', **arrays)
  lines = ',\n'.join(f'{json.dumps(k)}: {json.dumps(v)}'
                     for k, v in configs.items())
  (HERE / 'merged_configs.json').write_text(f'{{\n{lines}\n}}\n')


if __name__ == '__main__':
  main()
