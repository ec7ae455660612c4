r"""General knowledge transfer between ImageNet checkpoints, the paper's recipe.

Download the checkpoints that `CHECKPOINTS` names from the Hugging Face hub
(config.json, preprocessor_config.json, model.safetensors) into a folder each,
prepare imagenet2012 with tensorflow-datasets, then

  python -m experiments.run \
      --config configs/roth2024fantastic/imagenet.py:paper \
      --workdir DISK/fantastic --config.data.data_dir=DISK/tfds

Paper: success 92.5 % (KL-Dist+DP), about 40 % (KL-Dist); rho_positive about 2 %
or more for every pair. Here: not run, there are no checkpoints offline.
Departs: six models that can be imported instead of twenty from timm; crops are
taken from the central square; MCL's KL has all classes and all examples.
"""
from configs import common
from configs.common import transfers

VARIANTS = {'paper': 'not measured; accelerators', 'tiny': '30 s, digits'}
CHECKPOINTS = {  # name in the pool -> folder, named as on the hub
    'resnet18': 'checkpoints/microsoft/resnet-18',
    'resnet34': 'checkpoints/microsoft/resnet-34',
    'resnet50': 'checkpoints/microsoft/resnet-50',
    'deit_tiny': 'checkpoints/facebook/deit-tiny-patch16-224',
    'deit_small': 'checkpoints/facebook/deit-small-patch16-224',
    'vit_base': 'checkpoints/google/vit-base-patch16-224',
}


def get_config(variant: str = 'paper'):
  c = common.transfer()
  c.paper = 'roth2024fantastic'
  for name, path in CHECKPOINTS.items():
    c.pool[name] = common.pretrained(checkpoint=path)
  # 10 percent of the training images, 20 epochs.
  c.data = common.data('imagenet2012', test='validation', size=224,
                       subset=128117, validation=10000)
  c.batch.size = 256
  c.batch.augment = dict(
      random_resized_crop=dict(scale=(0.08, 1.0)), flip={},
      color_jitter=dict(p=0.8), grayscale=dict(p=0.2))
  c.optimizer.update(name='sgd', learning_rate=1e-4, l2=1e-4)
  c.optimizer.kw.momentum = 0.9
  transfers.fantastic(c, steps=20 * 128117 // 256)
  c.methods.xe_kl_mcl.update(  # of the authors' public config
      lr_scale=100.0, ema_share=0.9999**(c.loop.steps // 2), ema_every=2,
      weights=dict(kl=0.68, xe=0.32))
  c.loop.save_every = 1000
  c.compute_dtype = 'bfloat16'
  c.vmap, c.together = True, 4
  if variant == 'tiny':
    c.pretrain.terms.task = common.term('cross_entropy')
    model = lambda name, **kw: common.pretrained(model=dict(name=name, kw=kw))
    c.pool = dict(
        resnet=model('resnet18', widths=(4, 4, 8, 8), depths=(1, 1, 1, 1),
                     stem=4),
        vit=model('vit_tiny', patch=8, depth=1, width=8, heads=2),
        mlp=model('mlp', width=8))
    c.batch.augment = dict(random_resized_crop={}, flip={})
    transfers.tiny_transfer(c, *c.pool)
  elif variant != 'paper':
    raise common.unknown_variant(variant, *VARIANTS)
  return c
