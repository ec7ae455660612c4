"""Makes the tiny Hugging Face models beside this file, and their logits.

Run once, in an environment of its own; neither package is one of kt_jax's:

  python3.11 -m venv /tmp/ref
  /tmp/ref/bin/pip install torch==2.13.0 transformers==5.23.0 safetensors numpy
  /tmp/ref/bin/python tests/golden/pretrained/make.py

What is stored was made with torch 2.13.0+cpu, transformers 5.23.0, safetensors
0.8.0 and numpy 2.4.6 on Python 3.11. Weights are random, BatchNorm statistics
too; nothing is downloaded.
"""
import json
import pathlib
import shutil

import numpy as np
import torch
import transformers

HERE = pathlib.Path(__file__).parent
CLASSES = 5


def _resnet(**kw):
  config = transformers.ResNetConfig(
      num_labels=CLASSES, embedding_size=8, depths=[1, 2], **kw)
  return transformers.ResNetForImageClassification(config)


def _vit(**kw):
  config = transformers.ViTConfig(
      num_labels=CLASSES, hidden_size=16, num_hidden_layers=2,
      num_attention_heads=2, intermediate_size=24, image_size=[12, 16],
      patch_size=4, **kw)
  return transformers.ViTForImageClassification(config)


MODELS = {
    'resnet_basic': (lambda: _resnet(
        layer_type='basic', hidden_sizes=[8, 12]), (33, 32)),
    'resnet_bottleneck': (lambda: _resnet(
        layer_type='bottleneck', hidden_sizes=[16, 24]), (32, 32)),
    'resnet_v1': (lambda: _resnet(
        layer_type='bottleneck', hidden_sizes=[16, 24],
        downsample_in_bottleneck=True, downsample_in_first_stage=True,
        num_channels=1), (32, 32)),
    'vit': (_vit, (12, 16)),
    'vit_sharded': (lambda: _vit(qkv_bias=False), (12, 16)),
}


def _randomise(model, generator):
  with torch.no_grad():
    for name, value in model.state_dict().items():
      if not value.dtype.is_floating_point:
        continue
      noise = torch.randn(value.shape, generator=generator)
      if 'running_var' in name:
        value.copy_(0.5 + noise.abs())
      elif value.ndim == 1 and name.endswith('weight'):  # scales of norms
        value.copy_(1 + 0.3 * noise)
      elif value.ndim == 1 or 'embeddings' in name:
        value.copy_(0.3 * noise)
      else:
        value.copy_(noise / value[0].numel() ** 0.5)


def main():
  print('torch', torch.__version__, 'transformers', transformers.__version__)
  for seed, (name, (make, size)) in enumerate(MODELS.items()):
    generator = torch.Generator().manual_seed(seed)
    model = make().eval()
    _randomise(model, generator)
    out = HERE / name
    shutil.rmtree(out, ignore_errors=True)
    model.save_pretrained(
        out, max_shard_size='8KB' if name.endswith('sharded') else '1GB')
    if name == 'resnet_basic':
      # By hand: the class that writes it needs torchvision.
      (out / 'preprocessor_config.json').write_text(json.dumps({
          'do_normalize': True, 'do_resize': True,
          'image_mean': [0.4, 0.5, 0.6], 'image_std': [0.2, 0.25, 0.3],
          'image_processor_type': 'ViTImageProcessor',
          'size': {'height': 33, 'width': 32}}, indent=2) + '\n')
    x = torch.randn(3, model.config.num_channels, *size, generator=generator)
    with torch.no_grad():
      logits = model(x).logits
    np.savez_compressed(out / 'golden.npz', x=x.permute(0, 2, 3, 1).numpy(),
                        logits=logits.numpy())
    print(name, sorted(p.name for p in out.iterdir()), logits[0].numpy())


if __name__ == '__main__':
  main()
