"""Who is in a config of language models, and what of it cannot be."""
import jax

from kt_jax import core
from kt_jax import data
from kt_jax import models
from kt_jax.train import language
from kt_jax.train import sampling as samplings
from kt_jax.train import stage as stages


def make_networks(config, info, net, teachers, cached):
  """Name -> `language.Network`, and the arrays of the frozen ones."""
  softcap = lambda net, params, stats: models.call(
      net, params, stats, lambda m: m.logit_softcap)[0]
  cap_of = lambda t: _static(softcap, t.net, t.params, t.stats)
  networks, frozen = {}, {}
  for name, spec in config.teachers.items():
    if name == stages.STUDENT or set(name) & set('/@'):
      raise core.UserError(f'config.teachers.{name}: choose another name.')
    if (name == 'initial') != (spec.kind == 'initial'):
      raise core.UserError("The teacher called 'initial', and no other, is of "
                           f'kind initial; {name!r} is {spec.kind!r}.')
    if spec.kind in ('frozen', 'prompted'):
      of = spec.of or name
      if of not in teachers:
        raise core.UserError(core.nearest(
            f'frozen teacher (config.teachers.{name}.of)', of, teachers))
      teacher, mapping = teachers[of], None
      retokenized = bool(config.teachers[of].tokenizer)
      if retokenized:
        mapping = _mapping(config, name, teacher)
      else:
        check_vocabulary(name, teacher.info, info)
      if spec.kind == 'prompted' and spec.module not in config.modules:
        raise core.UserError(core.nearest(
            f'module (config.teachers.{name}.module)', spec.module,
            config.modules))
      kind = 'cached' if name in cached else spec.kind
      networks[name] = language.Network(
          None if name in cached else teacher.net, kind, info.classes,
          cap_of(teacher), of, spec.module, retokenized=retokenized,
          mapping=mapping)
      if kind == 'frozen':
        frozen[name] = dict(params=teacher.params, stats=teacher.stats)
  student = jax.eval_shape(lambda: models.arrays(
      net, models.builder(config.model.name, classes=info.classes,
                          input_shape=info.input_shape, seed=0,
                          **config.model.kw)()))
  mine = _static(softcap, net, *student)
  networks[stages.STUDENT] = language.Network(
      net, 'student', info.classes, mine, bits=config.train.bits)
  for name, spec in config.teachers.items():
    if spec.kind == 'initial':
      networks[name] = language.Network(net, 'frozen', info.classes, mine)
    elif spec.kind == 'average':
      if not config.train.ema:
        raise core.UserError(f'config.teachers.{name} is the moving average: '
                             'set train.ema, such as 0.999.')
      networks[name] = language.Network(net, 'average', info.classes, mine)
    elif spec.kind not in ('frozen', 'prompted'):
      raise core.UserError(core.nearest(
          f'kind of teacher (config.teachers.{name})', spec.kind,
          ('frozen', 'prompted', 'initial', 'average')))
  return networks, frozen


def _mapping(config, name, teacher):
  """Of our tokens to those of a teacher with another tokenizer, or None."""
  spec = config.teachers[name]
  if spec.kind != 'frozen' or config.sampling.source != 'data' or (
      config.cache.top_k or config.chunk):
    raise core.UserError(
        f'config.teachers.{name} has a tokenizer of its own: it must be frozen,'
        " with sampling.source 'data', cache.top_k 0 and chunk 0.")
  theirs = data.tokenizer(spec.tokenizer)
  if theirs.size > teacher.info.classes:
    raise core.UserError(
        f'config.teachers.{name}.tokenizer has {theirs.size} tokens, the '
        f'teacher {teacher.info.classes}.')
  if spec.mapping not in ('strings', ''):
    raise core.UserError(core.nearest(
        f'mapping (config.teachers.{name})', spec.mapping, ('strings', '')))
  if not spec.mapping:
    return None
  mapping = data.align_vocabularies(data.tokenizer(config.data.tokenizer),
                                    theirs)
  if mapping.max() < 0:
    raise core.UserError(f'config.teachers.{name}: no token of '
                         f'{config.data.tokenizer} is one of {theirs.name}; '
                         "with mapping='' the loss uld compares them.")
  return mapping


def _static(fn, *args):
  """What `fn` says of a model that no array of it is needed for."""
  said = []
  jax.eval_shape(lambda *a: said.append(fn(args[0], *a)), *args[1:])
  return said[0]


def check_vocabulary(name: str, have: data.Info, want: data.Info) -> None:
  """Refuses a model of another vocabulary, or of a shorter context."""
  if have.classes != want.classes:
    raise core.UserError(
        f'{name} has a vocabulary of {have.classes}, the data '
        f'({want.name}) one of {want.classes}. Their tokens are not the same: '
        "give both one tokenizer, or a teacher its own by 'tokenizer'.")
  if have.input_shape[0] < want.input_shape[0]:
    raise core.UserError(
        f'{name} has a context of {have.input_shape[0]} tokens, rows of the '
        f'data {want.input_shape[0]}. Set data.length.')


def check_terms(config, stage, info):
  """Names in terms exist, and samples have somewhere to begin."""
  for name, term in config.terms.items():
    where = f'config.terms.{name}'
    for role in ('learner', 'teacher'):
      if (term[role] or role == 'learner') and (
          term[role] not in stage.networks):
        raise core.UserError(core.nearest(
            f'network ({where}.{role})', term[role], stage.networks))
    if term.module and term.module not in stage.modules:
      raise core.UserError(core.nearest(
          f'module ({where}.module)', term.module, stage.modules))
    if term.on not in ('batch', language.DATA):
      raise core.UserError(core.nearest(f'batch ({where}.on)', term.on,
                                        ('batch', language.DATA)))
    movable = [stages.STUDENT, *stage.modules]
    for who in stages.trains(term):
      if who not in movable:
        raise core.UserError(core.nearest(
            f'network or module that learns ({where}.trains)', who, movable))
  if config.train.bits not in (0, *range(2, 17)):
    raise core.UserError('train.bits must be 0 or from 2 to 16, got '
                         f'{config.train.bits}.')
  sampling = config.sampling
  if sampling.source not in samplings.SOURCES:
    raise core.UserError(core.nearest(
        'source (sampling.source)', sampling.source, samplings.SOURCES))
  if sampling.source != 'data':
    if not 0 < config.data.prompt < info.input_shape[0]:
      raise core.UserError(
          'sampling.source continues prompts: data.prompt must be from 1 to '
          f'{info.input_shape[0] - 1}, got {config.data.prompt}.')
    if any(n.kind == 'cached' for n in stage.networks.values()):
      raise core.UserError('A cache has what teachers say of the data: with '
                           f'sampling.source {sampling.source!r} set '
                           'cache.top_k 0.')
  if sampling.source in ('speculative', 'blend') and (
      getattr(stage.networks.get(sampling.teacher), 'kind', '') != 'frozen'):
    raise core.UserError(core.nearest(
        'frozen teacher (sampling.teacher)', sampling.teacher,
        [n for n, t in stage.networks.items() if t.kind == 'frozen']))
