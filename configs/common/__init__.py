"""Config files are written in these functions: each returns a ConfigDict.

The keys and their defaults are the fields of the specs, `kt_jax/train/specs.py`
and the `Spec` of each experiment; a key that no spec has is refused where it is
set, or, in groups of free names, before the run. Recipes that several papers
share are in the modules of this package.
"""
import dataclasses
import importlib
from typing import Any

from ml_collections import config_dict

# Specs are imported where they are used: `--list` does without jax.


def config(spec: Any) -> config_dict.ConfigDict:
  """A spec as a locked ConfigDict; mappings of free names stay open."""
  from kt_jax import core
  c = config_dict.ConfigDict(core.spec.to_dict(spec))
  c.lock()
  _open(c, spec)
  return c


def _open(c, spec) -> None:
  for field in dataclasses.fields(spec):
    value = getattr(spec, field.name)
    node = c[field.name]
    if dataclasses.is_dataclass(value):
      _open(node, value)
    elif isinstance(node, config_dict.ConfigDict):
      node.unlock()
      for name, entry in value.items():
        if dataclasses.is_dataclass(entry):
          node[name].lock()
          _open(node[name], entry)


def _part(cls: str, *args, **kw) -> config_dict.ConfigDict:
  """A part of a training run: a class of `kt_jax.train.specs`."""
  from kt_jax.train import specs
  return _made(getattr(specs, cls), args, kw)


def _experiment(name: str, cls: str = 'Spec', *args, **kw
               ) -> config_dict.ConfigDict:
  """A class of an experiment, or of a part of one."""
  module = importlib.import_module(f'experiments.{name}')
  return _made(getattr(module, cls), args, kw)


def _made(cls, args, kw) -> config_dict.ConfigDict:
  from kt_jax import core
  names = [f.name for f in dataclasses.fields(cls)]
  return config(core.spec.build(cls, dict(zip(names, args)) | kw, cls.__name__))


# Training.


def train() -> config_dict.ConfigDict:
  """A training run on images."""
  return _part('Training')


def train_lm() -> config_dict.ConfigDict:
  """A training run on text, of a small decoder."""
  c = _part('Training', data=text())
  c.batch.size = 32
  c.model = model('decoder', depth=2, width=32, heads=2)
  c.terms.task = term('cross_entropy')
  c.optimizer = optimizer('adamw', 3e-3, weight_decay=0.01)
  c.optimizer.clip = 1.0
  c.optimizer.schedule.name = 'cosine_decay_schedule'
  c.loop.steps = 300
  c.evaluate.batch_size = 64
  c.cache.dtype = 'float32'
  return c


def distill() -> config_dict.ConfigDict:
  """`train()` with a pool of pretrained teachers."""
  c = train()
  c.pretrain = train()
  return c


def distill_lm() -> config_dict.ConfigDict:
  """`train_lm()` with a pool of pretrained decoders, and no terms yet."""
  c = train_lm()
  del c.terms.task
  c.pretrain = train_lm()
  return c


def data(name: str = 'digits', **kw) -> config_dict.ConfigDict:
  """An image data set; keys of `kt_jax.data.Images`."""
  from kt_jax import data as data_lib
  return _made(data_lib.Images, (name,), kw)


def text(length: int = 64, prompt: int = 0, **kw) -> config_dict.ConfigDict:
  """A data set of texts; keys of `kt_jax.data.Text`."""
  from kt_jax import data as data_lib
  return _made(data_lib.Text, (), dict(kw, length=length, prompt=prompt))


def domain(source: str, train=0, validation=0, test=0, *, share: float = 1.0,
           as_text: bool = False, disjoint: bool = True, **kw
          ) -> config_dict.ConfigDict:
  """Texts of one kind, `kt_jax.data.Domain`; `kw` are settings of the source.
  """
  from kt_jax import data as data_lib
  return _made(data_lib.Domain, (), dict(
      source=source, train=train, validation=validation, test=test,
      share=share, as_text=as_text, disjoint=disjoint, kw=kw))


def model(name: str, **kw) -> config_dict.ConfigDict:
  """A constructor of `kt_jax.models`, `kw` its sizes."""
  return _part('Model', name, kw)


def optimizer(name: str = 'sgd', learning_rate: float = 0.1, **kw
             ) -> config_dict.ConfigDict:
  """An optimizer of optax; `kw` are settings of it."""
  return _part('Optimizer', name, learning_rate, kw=kw)


def term(loss: str, weight: float = 1.0, warmup: int = 0, rename=None,
         **kw) -> config_dict.ConfigDict:
  """A loss term: keys of `LossTerm`, all others are settings of the loss."""
  from kt_jax.train import specs
  fields = {f.name for f in dataclasses.fields(specs.LossTerm)} - {'kw'}
  own = {name: kw.pop(name) for name in fields & set(kw)}
  return _part('LossTerm', loss, weight, warmup, kw, rename=rename or {}, **own)


def teacher(init_from: str = '', **kw) -> config_dict.ConfigDict:
  """A network to learn from: a key of the pool or a checkpoint; `Teacher`."""
  return _part('Teacher', init_from, **kw)


def module(name: str, **kw) -> config_dict.ConfigDict:
  """A class of `kt_jax.modules` (or module:class), `kw` its settings."""
  return _part('Module', name, kw)


def pretrained(init_from: str = '', by_seed: bool = False, checkpoint: str = '',
               **changes) -> config_dict.ConfigDict:
  """An entry of the pool: `pretrain` with changes; `Pretrained`."""
  return _part('Pretrained', changes, checkpoint, init_from, by_seed)


def sampling(source: str = 'data', **kw) -> config_dict.ConfigDict:
  """Where responses come from; `Sampling`."""
  return _part('Sampling', source, **kw)


# Experiments.


def evaluate() -> config_dict.ConfigDict:
  return _experiment('evaluate')


def generations() -> config_dict.ConfigDict:
  """`distill()`, several students in turn."""
  c = _experiment('generations')
  c.pretrain = train()
  return c


def compare(run) -> config_dict.ConfigDict:
  """Runs of one config, varied, and claims about them."""
  c = _experiment('compare')
  c.paper, c.run = run.paper, run
  return c


def arm(*terms: str, **changes) -> config_dict.ConfigDict:
  """A variation of the run: the terms that it keeps, () all; and changes."""
  return _experiment('compare', 'Arm', terms, changes)


def claim(better: str, than: str, metric: str = 'accuracy', **kw
         ) -> config_dict.ConfigDict:
  """`better` above `than`, paired by seed; keys of `Claim`."""
  return _experiment('compare', 'Claim', better, than, metric, **kw)


def merge() -> config_dict.ConfigDict:
  """Experts on tasks, and ways to make one model of them."""
  c = _experiment('merge')
  c.pretrain, c.finetune = train(), train()
  return c


def merging(op: str = '', kind: str = 'merge', **kw) -> config_dict.ConfigDict:
  """A way to make one model of experts; keys of `Arm` of merge."""
  return _experiment('merge', 'Arm', kind, op, **kw)


def task(checkpoint: str = '', init_from: str = '', **changes
        ) -> config_dict.ConfigDict:
  """A task of `merge`: changes to its training, or a checkpoint."""
  return _experiment('merge', 'Task', changes, checkpoint, init_from)


def transfer() -> config_dict.ConfigDict:
  """Transfer between all pairs of a pool. A term's weight is the method's."""
  c = _experiment('transfer')
  c.pretrain = train()
  return c


def method(lr_scale: float = 1.0, ema_share: float = 0.0, ema_every: int = 1,
           teachers: bool = True, **weights: float) -> config_dict.ConfigDict:
  """A weighting of the terms of `transfer`; `Method`."""
  return _experiment('transfer', 'Method', lr_scale, ema_share, ema_every,
                     teachers, weights)


def decode() -> config_dict.ConfigDict:
  """Ways to fuse decoders that are not trained any more."""
  c = _experiment('decode', data=text())
  c.pretrain = train_lm()
  return c


def fusing(*logits: str, fuse: str = '', base: str = '', experts=(),
           anti_experts=(), tune=None, **kw) -> config_dict.ConfigDict:
  """One model, or several fused token by token; `Arm` of decode."""
  return _experiment('decode', 'Arm', logits, fuse, base, experts, anti_experts,
                     tune or {}, kw)


def tabular() -> config_dict.ConfigDict:
  return _experiment('tabular')


def rate(power: float, inputs: int = 0, labels: int = 0
        ) -> config_dict.ConfigDict:
  """A theorem's rate of a risk; `Rate` of tabular."""
  return _experiment('tabular', 'Rate', power, inputs, labels)


def bench(measure: str) -> config_dict.ConfigDict:
  """A measure of the library itself; a module of `experiments/bench`."""
  return _experiment('bench', 'Spec', measure=measure)


def unknown_variant(variant: str, *have: str) -> ValueError:
  return ValueError(f'No variant {variant!r}; have {", ".join(have)}.')
