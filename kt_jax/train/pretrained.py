"""Pretrained models: runs, imported ones, and NNX models of one's own."""
from collections.abc import Callable
import dataclasses
from typing import Any, NamedTuple

from etils import epath
from flax import nnx
import jax
import numpy as np

from kt_jax import checkpoint
from kt_jax import core
from kt_jax import data
from kt_jax import models


class Trained(NamedTuple):
  net: models.Net
  params: models.Arrays
  stats: models.Arrays
  info: data.Info  # what it was trained on: classes, input shape, mean, std
  model: dict[str, Any]  # `config.model` that builds it; {} if it has none
  digest: str  # of params and stats
  source: str  # where it came from

  def card(self) -> dict[str, Any]:
    """What `load_trained` needs of a card to build this model again."""
    return dict(kind='run', model=self.model,
                data=dataclasses.asdict(self.info))

  def spec_key(self) -> dict[str, str]:
    """What stands for this model in the spec of a run."""
    return dict(source=self.source, digest=self.digest)

  def __repr__(self):
    return f'Trained({self.source!r}, digest={self.digest!r})'


def trained_from(model: nnx.Module, info: data.Info, source: str = ''
                ) -> Trained:
  """An NNX model of one's own, as a teacher or to start from.

  Args:
    model: maps normalized images `[B, H, W, C]` to logits `[B, K]`; of text, it
      has the methods of `models.Decoder` that training uses. Its arrays are
      not copied, and never changed.
    info: of the images that it reads: classes, shape, mean and std.
    source: its name in cards and errors; '': the name of its class.

  Raises:
    UserError: it is no such model.

  Example:
    info = data.abstract(spec.data)
    teacher = train.trained_from(MyNet(rngs=nnx.Rngs(0)), info)
    spec = dataclasses.replace(
        spec, teachers=dict(teacher=train.Teacher(teacher)))
  """
  if not isinstance(model, nnx.Module):
    raise core.UserError(f'model must be an nnx.Module, got {model!r}.')
  source = source or type(model).__qualname__
  net, params, stats = models.split(model)
  if len(info.input_shape) == 1:
    for name in ('hidden', 'logits', 'head_kernel', 'logit_softcap'):
      if not hasattr(model, name):
        raise core.UserError(f'{source} has no {name}; see models.Decoder.')
  else:
    x = jax.ShapeDtypeStruct((1, *info.input_shape), np.float32)
    logits = jax.eval_shape(
        lambda *args: models.apply(net, *args).logits, params, stats, x)
    if getattr(logits, 'shape', None) != (1, info.classes):
      raise core.UserError(
          f'{source} must return logits [B, {info.classes}] for images '
          f'{(1, *info.input_shape)}, got {logits}.')
  return Trained(net, params, stats, info, {},
                 checkpoint.digest(dict(params=params, stats=stats)), source)


def check_fits(have: data.Info, want: data.Info, name: str) -> None:
  """Refuses the model `name`, made for `have`, on the data `want`."""
  for field in ('classes', 'input_shape'):
    if getattr(have, field) != getattr(want, field):
      raise core.UserError(
          f'{name} has {field} {getattr(have, field)}, data {want.name!r} '
          f'{getattr(want, field)}.'
          + (' Set data.size.' if field == 'input_shape' else ''))


def load_trained(path, step: int | None = None,
                 model: str | Callable[..., Any] = '') -> Trained:
  """Reads the workdir of a run, or a Hugging Face directory.

  Args:
    path: workdir of a run, or a directory with `config.json` and safetensors,
      which are read as float32. Of a language model, classes are its vocabulary
      and the input shape its context.
    step: which checkpoint of a run; None: the one that its card names.
    model: constructor, where the one that the run was given has no name under
      which it can be imported.

  Returns:
    The model, verified against the digest that was saved with it.

  Raises:
    UserError: it is neither, or it is damaged.
  """
  folder = epath.Path(path).expanduser()
  if not folder.exists():
    raise core.UserError(f'No checkpoint directory {path}.')
  if not (folder / 'card.json').exists():
    if (folder / 'config.json').exists():
      return _imported(folder)
    raise core.UserError(
        f'{path} is neither the --workdir of a run (no card.json) nor a '
        'Hugging Face directory (no config.json).')
  card = checkpoint.read_json(folder / 'card.json')
  try:
    info, settings = data.Info(**card['data'] | {
        k: tuple(card['data'][k]) for k in (
            'input_shape', 'mean', 'std', 'class_names')}), card['model']
    name, sizes = model or settings['name'], settings['kw']
  except (KeyError, TypeError) as e:
    raise core.UserError(f'{folder / "card.json"} is not a card of this '
                         f'library: {e!r}.') from e
  try:
    build = models.builder(name, classes=info.classes,
                           input_shape=info.input_shape, **sizes)
  except core.UserError as e:
    raise core.UserError(
        f'{path}: {e} Give train.load_trained its constructor (model=...), and '
        'the result as init_from.') from e
  net = models.abstract(build)
  saved = checkpoint.read(folder, step)
  params, stats = saved.model['params'], saved.model['stats'] or {}
  want = jax.eval_shape(lambda: models.arrays(net, build()))
  for kind, have, expected in zip(('params', 'stats'), (params, stats), want):
    shape = lambda tree: {k: tuple(v.shape) for k, v in tree.items()}
    if shape(have) != shape(expected):
      odd = sorted(shape(have).items() ^ shape(expected).items())
      raise core.UserError(
          f'{kind} of {folder} do not fit {settings}: {odd[:4]}.')
  return Trained(net, params, stats, info, settings, saved.meta['model'],
                 str(folder))


def _imported(folder) -> Trained:
  model = models.from_pretrained(folder, 'float32')
  if isinstance(model, models.Decoder):
    return _decoder(model, folder)
  if model.mean is None or model.std is None:
    raise core.UserError(
        f'{folder} does not say mean and std of its inputs: add '
        'preprocessor_config.json with image_mean and image_std.')
  info = data.Info(
      name='imported', classes=model.classes, input_shape=model.input_shape,
      mean=model.mean, std=model.std, class_names=(), sizes={})
  both = dict(params=model.params, stats=model.stats)
  return Trained(model.net, model.params, model.stats, info, {},
                 checkpoint.digest(both), str(folder))


def _decoder(model, folder) -> Trained:
  net, params, stats = models.split(model)
  info = data.Info(
      name='imported', classes=model.embed.num_embeddings,
      input_shape=(model.context,), mean=(), std=(), class_names=(), sizes={})
  settings = dict(name='decoder', kw=models.decoder_settings(model))
  return Trained(net, params, stats, info, settings,
                 checkpoint.digest(dict(params=params, stats=stats)),
                 str(folder))
