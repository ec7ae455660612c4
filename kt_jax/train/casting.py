"""Who is in a config of `distill`, and what of it cannot be."""
import inspect
import zlib

from kt_jax import core
from kt_jax import models
from kt_jax import modules
from kt_jax.train import stage as stages

KINDS = 'frozen', 'online', 'average', 'initial'


def make_networks(config, info, net, build, teachers, cached):
  """Name -> Network, and how those that learn are built."""
  ours = lambda **kw: stages.Network(mean=info.mean, std=info.std, **kw)
  networks = {stages.STUDENT: ours(net=net, kind='student')}
  builds = {stages.STUDENT: build}
  for name, spec in config.teachers.items():
    if spec.kind not in KINDS:
      raise core.UserError(core.nearest(
          f'kind of teacher (config.teachers.{name})', spec.kind, KINDS))
    if spec.kind != 'frozen' and (spec.classes or spec.corrupt):
      raise core.UserError(f'config.teachers.{name}: classes and corrupt are '
                           f'for kind frozen, this is {spec.kind}.')
    if spec.kind in ('average', 'initial') and (
        spec.checkpoint or spec.changes):
      raise core.UserError(f'config.teachers.{name} is of kind {spec.kind}: '
                           'it has no checkpoint and no changes.')
    if name in (stages.STUDENT, *config.modules) or set(name) & set('/@'):
      raise core.UserError(f'config.teachers.{name}: choose another name.')
    if (name == 'initial') != (spec.kind == 'initial'):
      raise core.UserError("The teacher called 'initial', and no other, is of "
                           f'kind initial; {name!r} is {spec.kind!r}.')
    if spec.kind == 'online' and name in teachers:
      t = teachers[name]
      check_classes(name, t.info, info, ())
      builds[name] = t.net  # never built: its arrays are given
      networks[name] = stages.Network(t.net, t.info.mean, t.info.std, 'online')
    elif spec.kind == 'frozen':
      classes = tuple(spec.classes)
      have = teachers[name].info
      check_classes(name, have, info, classes)
      networks[name] = stages.Network(
          None if name in cached else teachers[name].net, have.mean, have.std,
          'cached' if name in cached else 'frozen', classes, spec.corrupt)
    elif spec.kind == 'online':
      builds[name] = models.builder(
          spec.model.name, classes=info.classes, input_shape=info.input_shape,
          seed=seed_of(config.seed, name), **spec.model.kw)
      networks[name] = ours(net=models.abstract(builds[name]), kind='online')
    else:
      if spec.kind == 'average' and not config.train.ema:
        raise core.UserError(f'config.teachers.{name} is the moving average: '
                             'set train.ema, such as 0.999.')
      networks[name] = ours(
          net=net, kind='frozen' if spec.kind == 'initial' else 'average')
  return networks, builds


def module_settings(name: str, spec, known):
  """`(class, settings)` of `config.modules[name]`.

  Args:
    name: of the module.
    spec: its entry.
    known: settings that the run knows, for those that take them unsaid.
  """
  cls = core.resolve(modules, spec.name, f'module (config.modules.{name})')
  takes = inspect.signature(cls.__init__).parameters
  for setting in spec.kw:
    if setting not in takes:
      raise core.UserError(core.nearest(
          f'setting of {spec.name} (config.modules.{name}.kw)', setting,
          [n for n, p in takes.items() if p.kind is p.KEYWORD_ONLY]))
  return cls, {n: v for n, v in known.items() if n in takes} | dict(spec.kw)


def seed_of(seed: int, name: str) -> int:
  """A seed for whoever is called `name`."""
  return (seed + zlib.crc32(name.encode())) % (1 << 31)


def check_classes(name, have, info, classes):
  if have.input_shape != info.input_shape:
    raise core.UserError(f'Teacher {name} has input_shape {have.input_shape}, '
                         f'the data {info.input_shape}. Set data.size.')
  if classes and (len(classes) != info.classes or min(classes) < 0
                  or max(classes) >= have.classes):
    raise core.UserError(
        f'config.teachers.{name}.classes must name, for each of the '
        f'{info.classes} classes of the data, one of the {have.classes} of the '
        f'teacher; got {len(classes)} from {min(classes)} to {max(classes)}.')
  if not classes and have.classes != info.classes:
    raise core.UserError(
        f'Teacher {name} has {have.classes} classes, the data {info.classes}: '
        f'config.teachers.{name}.classes says which of its classes each of '
        'ours is.')


def check_terms(config, networks):
  """Names in terms exist, and whatever learns has a term."""
  clean = [n + stages.CLEAN for n in networks]
  used = {config.augmentor, config.bilevel.module}
  movable = [n for n, network in networks.items()
             if network.kind in ('student', 'online')] + list(config.modules)
  for name, term in config.terms.items():
    where = f'config.terms.{name}'
    for role in ('learner', 'teacher'):
      who = term[role]
      if (who or role == 'learner') and who not in (*networks, *clean):
        raise core.UserError(core.nearest(
            f'network ({where}.{role})', who, networks))
    if term.module and term.module not in config.modules:
      raise core.UserError(core.nearest(
          f'module ({where}.module)', term.module, config.modules))
    for who in stages.trains(term):
      if who not in movable:
        raise core.UserError(core.nearest(
            f'network or module that learns ({where}.trains)', who, movable))
    used |= {term.module, *term.trains}
  for name in (config.augmentor, config.bilevel.module):
    if name and name not in config.modules:
      raise core.UserError(core.nearest('module', name, config.modules))
  moved = set().union(*map(stages.trains, config.terms.values()))
  for name, network in networks.items():
    if network.kind == 'online' and name not in moved:
      raise core.UserError(f'config.teachers.{name} is online, but no term '
                           'trains it.')
  if config.bilevel.module and config.bilevel.module not in moved:
    raise core.UserError(
        f'config.bilevel.module {config.bilevel.module!r}: no term has it in '
        'trains, so that the held-out loss cannot reach it.')
  for name in config.modules:
    if name == stages.STUDENT or set(name) & set('/@'):
      raise core.UserError(f'config.modules.{name}: choose another name.')
    if name not in used:
      raise core.UserError(f'config.modules.{name}: no term names it.')
  for name in config.optimizers:
    if name not in movable:
      raise core.UserError(core.nearest(
          'network or module that learns (config.optimizers)', name, movable))
  if config.bilevel.module and config.train.accumulate > 1:
    raise core.UserError('bilevel needs train.accumulate 1.')
