"""What the settings of a kind of arm may be: named, checked, with defaults."""
import types

from kt_jax import core


class OneOf(tuple):
  """Words, of which the first is the default."""


class Task(str):
  """The name of a task, '' for the base."""


def options(**defaults):
  """Says which `settings` a kind of arm takes; a decorator."""
  def mark(kind):
    kind.options = defaults
    return kind
  return mark


def read(config, arm, kind, chosen=()) -> types.SimpleNamespace:
  """The settings of an arm, `chosen` above them.

  Raises:
    UserError: a setting that the kind does not have, or a word or task that
      does not exist.
  """
  given = arm.settings.to_dict() | dict(chosen)
  for name in (*given, *arm.tune):
    if name not in kind.options:
      raise core.UserError(core.nearest(f'setting of {arm.kind}', name,
                                        kind.options))
  found = {}
  for name, default in kind.options.items():
    value = given.get(name, default[0] if isinstance(default, OneOf)
                      else default)
    if isinstance(default, OneOf) and value not in default:
      raise core.UserError(core.nearest(f'value of {name}', value, default))
    if isinstance(default, Task) and value and value not in config.tasks:
      raise core.UserError(core.nearest(f'task ({name})', value, config.tasks))
    found[name] = value
  return types.SimpleNamespace(**found)
