"""Builds and validates the networks and modules of a training spec."""
from collections.abc import Callable, Mapping
import inspect
from typing import Any
import zlib

from flax import nnx
import jax
import numpy as np

from kt_jax import core
from kt_jax import data
from kt_jax import models
from kt_jax import modules
from kt_jax.train import graph as graphs
from kt_jax.train import specs
from kt_jax.train.graph import Network
from kt_jax.train.pretrained import Trained
from kt_jax.train.specs import CLEAN
from kt_jax.train.specs import STUDENT

Build = Callable[[], nnx.Module]


def student_builder(spec: specs.Training, info: data.Info) -> Build:
  """The student with fresh parameters."""
  return models.builder(
      spec.model.name, classes=info.classes, input_shape=info.input_shape,
      seed=spec.seed, **spec.model.kw)


def seed_of(seed: int, name: str) -> int:
  """A seed for the network or module `name`."""
  return (seed + zlib.crc32(name.encode())) % (1 << 31)


def make_networks(spec: specs.Training, info: data.Info, net: models.Net,
                  teachers: Mapping[str, Trained], cached
                 ) -> tuple[dict[str, Network], dict[str, Build]]:
  """Networks by name, and how those that learn are built.

  Args:
    spec: of the run.
    info: of the data.
    net: of the student.
    teachers: pretrained ones by name; arrays may be abstract.
    cached: names of those whose outputs come with the batch.

  Raises:
    UserError: networks that do not exist, contradict their kind or do not fit.
  """
  build = student_builder(spec, info)
  abstract = jax.eval_shape(lambda: models.arrays(net, build()))
  plain = _described(spec, info, net, *abstract)
  networks = {STUDENT: plain._replace(kind=STUDENT, bits=spec.train.bits)}
  builds = {STUDENT: build}
  for name, teacher in spec.teachers.items():
    _check_name(f'config.teachers.{name}', name, spec.modules)
    _check_kind(spec, name, teacher)
    if teacher.kind == 'initial':
      networks[name] = plain._replace(kind='frozen')
    elif teacher.kind == 'average':
      networks[name] = plain
    elif teacher.kind == 'online' and not teacher.init_from:
      builds[name] = models.builder(
          teacher.model.name, classes=info.classes,
          input_shape=info.input_shape, seed=seed_of(spec.seed, name),
          **teacher.model.kw)
      own = models.abstract(builds[name])
      networks[name] = _described(spec, info, own, *jax.eval_shape(
          lambda own=own, name=name: models.arrays(own, builds[name]())))
    else:
      networks[name] = _pretrained(spec, name, info, teachers)
      if name in cached:
        networks[name] = networks[name]._replace(net=None, kind='cached')
    if teacher.kind == 'online':
      networks[name] = networks[name]._replace(kind='online')
      # Given ones are never built: their arrays are there.
      builds.setdefault(name, _refuse)
  return networks, builds


def _refuse():
  raise AssertionError('The arrays of this network are given.')


def _described(spec, info, net, params, stats) -> Network:
  """A network that reads the data as the student does."""
  softcap = 0.0
  if isinstance(spec.data, data.Text):
    softcap = _static(lambda net, params, stats: models.call(
        net, params, stats, lambda m: getattr(m, 'logit_softcap', None))[0],
                      net, params, stats)
    if softcap is None:
      raise core.UserError('The data are text, and a model is not a decoder: '
                           "set its model.name, such as 'decoder'.")
  return Network(net, 'average', info.classes, mean=info.mean, std=info.std,
                 softcap=softcap)


def _check_name(where: str, name: str, others):
  if name == STUDENT or name in others or set(name) & set('/@'):
    raise core.UserError(f'{where}: the name is reserved, used twice, or '
                         "contains '/' or '@'.")


def _check_kind(spec, name: str, teacher: specs.Teacher):
  """Refuses fields of a teacher that its kind does not have."""
  where, kind = f'config.teachers.{name}', teacher.kind
  text = isinstance(spec.data, data.Text)
  kinds: dict[str, tuple[str, ...]] = dict(init_from=('frozen', 'online'))
  if text:
    kinds |= dict(tokenizer=('frozen',), of=('prompted',), module=('prompted',),
                  classes=(), permute_logits=())
  else:
    kinds |= dict(classes=('frozen', 'online'), permute_logits=('frozen',),
                  tokenizer=(), of=(), module=())
  for field, allowed in kinds.items():
    if not getattr(teacher, field):
      continue
    if not allowed:
      raise core.UserError(f'{where}.{field} is for '
                           f'{"images" if text else "text"}.')
    if kind not in allowed:
      raise core.UserError(f'{where}.{field} is for kind '
                           f'{" or ".join(allowed)}; this is {kind}.')
  if kind == 'prompted' and not text:
    raise core.UserError(f'{where}: kind prompted is for text.')
  if kind == 'frozen' and not teacher.init_from:
    raise core.UserError(f'{where}.init_from is empty: name a key of '
                         'config.pool or a checkpoint.')
  if kind == 'online' and teacher.init_from and (
      teacher.model != specs.Model()):
    raise core.UserError(f'{where}: model is that of init_from.')
  if (name == 'initial') != (kind == 'initial'):
    raise core.UserError("The teacher called 'initial', and no other, is of "
                         f'kind initial; {name!r} is {kind!r}.')
  if kind == 'average' and not spec.train.ema:
    raise core.UserError(f'{where} is the moving average: set train.ema, such '
                         'as 0.999.')
  if kind == 'prompted' and teacher.module not in spec.modules:
    raise core.UserError(core.nearest(
        f'module ({where}.module)', teacher.module, spec.modules))


def _pretrained(spec, name: str, info, teachers) -> Network:
  """A frozen, prompted or online network whose parameters are given."""
  teacher = spec.teachers[name]
  of = teacher.of or name
  if teacher.kind == 'prompted':
    frozen = [n for n in teachers if spec.teachers[n].kind == 'frozen']
    if of not in frozen:
      raise core.UserError(core.nearest(
          f'frozen teacher (config.teachers.{name}.of)', of, frozen))
    if spec.cache.views:
      raise core.UserError(f'config.teachers.{name} is prompted: a cache does '
                           'not hold its outputs; set cache.views 0.')
  trained = teachers[of]
  if not isinstance(spec.data, data.Text):
    check_classes(name, trained.info, info, teacher.classes)
    return Network(
        trained.net, teacher.kind, trained.info.classes, mean=trained.info.mean,
        std=trained.info.std, class_map=teacher.classes,
        permute_logits=teacher.permute_logits)
  own_tokenizer = bool(spec.teachers[of].tokenizer)
  mapping = None
  if own_tokenizer:
    mapping = _mapping(spec, name, trained)
  else:
    check_vocabulary(name, trained.info, info)
  described = _described(spec, info, trained.net, trained.params, trained.stats)
  return described._replace(
      kind=teacher.kind, of=teacher.of, module=teacher.module,
      retokenized=own_tokenizer, mapping=mapping)


def _mapping(spec, name: str, trained: Trained) -> np.ndarray | None:
  """Token of a teacher with another tokenizer for each of the data, or None."""
  teacher = spec.teachers[name]
  if teacher.kind != 'frozen' or spec.sampling.source != 'data' or (
      spec.cache.views or spec.train.chunk):
    raise core.UserError(
        f'config.teachers.{name} has a tokenizer of its own: it must be frozen,'
        " with sampling.source 'data', cache.views 0 and train.chunk 0.")
  theirs = data.tokenizer(teacher.tokenizer)
  if theirs.size > trained.info.classes:
    raise core.UserError(
        f'config.teachers.{name}.tokenizer has {theirs.size} tokens, the '
        f'teacher {trained.info.classes}.')
  if not teacher.mapping:
    return None
  mapping = data.align_vocabularies(data.tokenizer(spec.text.tokenizer), theirs)
  if mapping.max() < 0:
    raise core.UserError(f'config.teachers.{name}: no token of '
                         f'{spec.text.tokenizer} is one of {theirs.name}; '
                         "with mapping='' the loss uld compares them.")
  return mapping


def _static(fn, *args):
  """What `fn` returns of a model without reading any of its arrays."""
  out = []
  jax.eval_shape(lambda *a: out.append(fn(args[0], *a)), *args[1:])
  return out[0]


def check_vocabulary(name: str, model: data.Info, info: data.Info) -> None:
  """Refuses a model of another vocabulary, or of a shorter context."""
  if model.classes != info.classes:
    raise core.UserError(
        f'{name} has a vocabulary of {model.classes}, the data '
        f'({info.name}) one of {info.classes}. Their tokens are not the same: '
        "give both one tokenizer, or a teacher its own by 'tokenizer'.")
  if model.input_shape[0] < info.input_shape[0]:
    raise core.UserError(
        f'{name} has a context of {model.input_shape[0]} tokens, rows of the '
        f'data {info.input_shape[0]}. Set data.length.')


def check_classes(name: str, model: data.Info, info: data.Info, class_map):
  """Refuses a teacher of other images, or of other classes without a map."""
  if model.input_shape != info.input_shape:
    raise core.UserError(f'Teacher {name} has input_shape {model.input_shape}, '
                         f'the data {info.input_shape}. Set data.size.')
  if class_map and (len(class_map) != info.classes or min(class_map) < 0
                    or max(class_map) >= model.classes):
    raise core.UserError(
        f'config.teachers.{name}.classes must name, for each of the '
        f'{info.classes} classes of the data, one of the {model.classes} of '
        f'the teacher; got {len(class_map)} from {min(class_map)} to '
        f'{max(class_map)}.')
  if not class_map and model.classes != info.classes:
    raise core.UserError(
        f'Teacher {name} has {model.classes} classes, the data {info.classes}: '
        f'config.teachers.{name}.classes lists its class for each of the data.')


# Loss terms.


def check_terms(spec: specs.Training, networks: Mapping[str, Network]) -> None:
  """Refuses names in loss terms that do not exist, and unused networks.

  Raises:
    UserError: names the key and the nearest name.
  """
  text = isinstance(spec.data, data.Text)
  clean = [] if text else [n + CLEAN for n in networks]
  used = {spec.augmentor, spec.bilevel.module}
  used |= {t.module for t in spec.teachers.values()}
  learning = [n for n, network in networks.items()
              if network.kind in (STUDENT, 'online')] + list(spec.modules)
  for name, term in spec.terms.items():
    where = f'config.terms.{name}'
    for role in ('student', 'teacher'):
      network = getattr(term, role)
      if (network or role == 'student') and network not in (*networks, *clean):
        raise core.UserError(core.nearest(
            f'network ({where}.{role})', network, networks))
    if term.module and term.module not in spec.modules:
      raise core.UserError(core.nearest(
          f'module ({where}.module)', term.module, spec.modules))
    for network in specs.updated(term):
      if network not in learning:
        raise core.UserError(core.nearest(
            f'network or module that learns ({where}.updates)', network,
            learning))
    used |= {term.module, *term.updates}
  for name in (spec.augmentor, spec.bilevel.module):
    if name and name not in spec.modules:
      raise core.UserError(core.nearest('module', name, spec.modules))
  updates = set().union(*map(specs.updated, spec.terms.values()))
  for name, network in networks.items():
    if network.kind == 'online' and name not in updates:
      raise core.UserError(f'config.teachers.{name} is online, but no term '
                           'updates it.')
  if spec.bilevel.module and spec.bilevel.module not in updates:
    raise core.UserError(
        f'config.bilevel.module {spec.bilevel.module!r}: no term has it in '
        'updates, so that the held-out loss cannot reach it.')
  for name in spec.modules:
    _check_name(f'config.modules.{name}', name, spec.teachers)
    if name not in used:
      raise core.UserError(f'config.modules.{name}: no term names it.')
  for name in spec.optimizers:
    if name not in learning:
      raise core.UserError(core.nearest(
          'network or module that learns (config.optimizers)', name, learning))
  if spec.train.accumulate < 1:
    raise core.UserError('train.accumulate must be 1 or more, got '
                         f'{spec.train.accumulate}.')
  if spec.bilevel.module and spec.train.accumulate > 1:
    raise core.UserError('bilevel needs train.accumulate 1.')
  if spec.train.bits not in (0, *range(2, 17)):
    raise core.UserError('train.bits must be 0 or from 2 to 16, got '
                         f'{spec.train.bits}.')


# Modules.


def make_modules(spec: specs.Training, graph: graphs.TermGraph, builds, known,
                 shapes: Callable[[str, str, tuple[str, ...]], Any],
                 teachers: Mapping[str, Trained]) -> dict[str, Build]:
  """How each module is built; it joins `graph.modules`.

  Args:
    spec: of the run.
    graph: of its networks.
    builds: of the networks; modules join them.
    known: settings that the run knows, for modules that take them.
    shapes: `(module, term, names)` -> shapes of the arrays of the first term
      that uses the module.
    teachers: pretrained ones.
  """
  order = sorted(spec.modules, key=lambda n: n != spec.augmentor)
  for name in order:
    settings = dict(known)
    for network in graph.networks.values():
      if network.module == name:
        settings['width'] = teachers[network.of].params[
            'embed/embedding'].shape[1]
    cls, settings = module_settings(name, spec.modules[name], settings)
    inputs = graphs.positional(cls.__init__)
    terms = [n for n, t in spec.terms.items() if t.module == name]
    arrays = shapes(name, terms[0] if terms else '', inputs) if inputs else {}
    seed = seed_of(spec.seed, name)

    def make(cls=cls, arrays=arrays, settings=settings, seed=seed):
      return core.bind(cls, arrays, rngs=nnx.Rngs(seed), **settings)
    builds[name] = make
    call = vars(cls).get('__call__')
    graph.modules[name] = graphs.Module(
        models.abstract(make),
        graphs.positional(call) if inspect.isfunction(call) else (),
        hasattr(cls, 'update'))
  return builds


def module_settings(name: str, module: specs.Module, known: Mapping[str, Any]
                   ) -> tuple[Callable[..., Any], dict[str, Any]]:
  """`(class, settings)` of `config.modules[name]`.

  Args:
    name: of the module.
    module: its spec.
    known: settings that the run knows, for those that take them.
  """
  cls = module.name if callable(module.name) else core.resolve(
      modules, module.name, f'module (config.modules.{name})')
  if not inspect.isclass(cls):
    raise core.UserError(f'config.modules.{name}.name must be a class, got '
                         f'{cls!r}.')
  parameters = inspect.signature(cls.__init__).parameters
  for setting in module.kw:
    if setting not in parameters:
      raise core.UserError(core.nearest(
          f'setting of {cls.__name__} (config.modules.{name}.kw)', setting,
          [n for n, p in parameters.items() if p.kind is p.KEYWORD_ONLY]))
  return cls, {n: v for n, v in known.items() if n in parameters} | dict(
      module.kw)
