"""Trains a decoder by a sum of losses between decoders.

Responses come from the data, or are drawn within each step; frozen teachers
run beside the student, or what they say of the data is read from disk.
"""
import jax

from experiments import language_measure
from experiments import members
from experiments import pretrain_lm
from experiments import token_cache
from kt_jax import core
from kt_jax import data
from kt_jax import procedures
from kt_jax import train


def check(config):
  """Traces a step; members that are not trained yet are abstract."""
  info, tokenizer = pretrain_lm.abstract(config)
  teachers = _teachers(config)
  named = [n for n in (config.start, *(
      t.member for t in config.teachers.values())) if n in config.members]
  reports = members.check(config, named)
  _check_options(config)
  start = members.load(config, config.start) if config.start else None
  session, _, batch = train.make_language_session(
      config, info, teachers, start=pretrain_lm.fitting(start, info),
      stop=pretrain_lm.stop_of(tokenizer), pad=tokenizer.pad,
      cached=token_cache.sizes(config, teachers))
  return reports + [pretrain_lm.describe(config, session, batch)]


def run(config, workdir):
  return pretrain_lm.run(config, workdir, setup)


def setup(config, workdir) -> pretrain_lm.Setup:
  """Everybody of a config, on the text."""
  check(config)  # names and shapes first: teachers may take long
  splits, tokenizer = pretrain_lm.load(config)
  _check_prompts(config, splits)
  teachers = _teachers(config, workdir)
  start = members.load(config, config.start, workdir) if config.start else None
  sizes = token_cache.sizes(config, teachers)
  prompts = {spec.module: tokenizer.encode(config.prompt_text)
             for spec in config.teachers.values() if spec.kind == 'prompted'}
  session, _, _ = train.make_language_session(
      config, splits.info, teachers,
      start=pretrain_lm.fitting(start, splits.info),
      stop=pretrain_lm.stop_of(tokenizer), pad=tokenizer.pad, cached=sizes,
      prompts=prompts)
  whole = jax.sharding.NamedSharding(session.mesh, jax.sharding.PartitionSpec())
  session = session._replace(settings=session.settings._replace(
      frozen=jax.device_put(session.settings.frozen, whole)))
  judges = tuple(
      (name, train.make_score(t.net), dict(params=t.params, stats=t.stats))
      for name, t in teachers.items() if not config.teachers[name].tokenizer)
  join = _retokenized(config, teachers, splits.train, tokenizer)
  if sizes:
    join = token_cache.lookup(config, teachers, splits)
  stream = pretrain_lm.open_stream(config, splits.train, session.mesh, join)
  made = pretrain_lm.Setup(
      session, splits, tokenizer, tuple(map(pretrain_lm.parent, (
          *teachers.values(), *([start] if start else [])))), judges, stream)
  if config.mixture.every:
    made = made._replace(remix=_remix(config, made))
  return made


def _teachers(config, workdir=None) -> dict[str, train.Trained]:
  """The frozen teachers; without a workdir, shapes of what is not there."""
  found = {}
  for name, spec in config.teachers.items():
    given = spec.member or spec.checkpoint
    if spec.kind == 'frozen' and not given:
      raise core.UserError(f'config.teachers.{name}: name a member or a '
                           'checkpoint.')
    if spec.kind != 'frozen' and given:
      raise core.UserError(f'config.teachers.{name} is of kind {spec.kind}: it '
                           'has no member and no checkpoint.')
    if spec.member and spec.member not in config.members:
      raise core.UserError(core.nearest(
          f'member (config.teachers.{name})', spec.member, config.members))
    if spec.member:
      theirs = members.member_config(config, spec.member).data.tokenizer
      if theirs != (spec.tokenizer or config.data.tokenizer):
        raise core.UserError(
            f'config.teachers.{name}: the member {spec.member} has the '
            f'tokenizer {theirs!r}; set tokenizer={theirs!r}.')
    if given:
      found[name] = members.load(config, given, workdir)
  return found


def _retokenized(config, teachers, arrays, ours):
  """Function that joins to a batch what teachers with other tokenizers read."""
  others = {name: data.retokenize(
      arrays, ours, data.tokenizer(config.teachers[name].tokenizer),
      t.info.input_shape[0])
            for name, t in teachers.items() if config.teachers[name].tokenizer}
  return (lambda batch: batch | {
      f'retokenized/{name}/{array}': values[batch['index']]
      for name, found in others.items()
      for array, values in found._asdict().items()}) if others else None


def _check_options(config):
  """What would be found late otherwise."""
  if config.mixture.every and (len(config.data.domains) < 2
                               or not any(
                                   t.kind == 'frozen' and not t.tokenizer
                                   for t in config.teachers.values())):
    raise core.UserError('mixture.every moves the shares of domains by how far '
                         'the student is behind a frozen teacher: name two '
                         'domains at least, and a teacher.')
  if config.evaluate.responses and not config.data.prompt:
    raise core.UserError('evaluate.responses needs prompts: set data.prompt.')


def _check_prompts(config, splits):
  """Refuses rows whose prompts could not be continued."""
  prompt, rows = config.data.prompt, splits.train
  if config.sampling.source != 'data' and (
      rows.segments.max() > 1 or rows.targets[:, :prompt].any()):
    raise core.UserError(
        f'sampling.source {config.sampling.source!r} continues prompts, but '
        'some rows hold documents that begin anywhere: use pairs or continuous '
        'text.')


def _remix(config, made):
  """`procedures.domain_shares` of the held-out text."""
  rows = language_measure.first_rows(made.splits.validation,
                                     config.mixture.rows)
  names = list(rows.domains)
  _, score, teacher = made.judges[0]
  say = lambda score, model: language_measure.likelihood(
      score, model, rows, config.evaluate.batch_size)
  theirs = say(score, teacher)

  def remix(model, step, shares):
    ratios = language_measure.mean_ratio(
        say(made.session.predict, model), theirs, names)
    return dict(zip(names, procedures.domain_shares(
        ratios, [shares[n] for n in names] if step else None,
        smoothing=config.mixture.smoothing,
        limit=config.mixture.limit).tolist()))
  return remix
