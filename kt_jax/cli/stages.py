"""Files of several recipes, in which later stages merge earlier results."""
from collections.abc import Mapping
import difflib
import os
import pathlib
import re
from typing import Any

from kt_jax import core
from kt_jax.cli import fields
from kt_jax.cli import inputs
from kt_jax.cli import recipe as recipe_lib


def read_file(path) -> tuple[recipe_lib.Recipe, ...]:
  """The recipes of a YAML file in the order to run them; see `read_text`.

  Raises:
    UserError: no such file, or what `read_text` refuses.
  """
  path = pathlib.Path(os.path.expanduser(path))
  if not path.is_file():
    raise core.UserError(f'{path}: no such recipe file.')
  with path.open('rb') as file:
    data = file.read(fields.BYTES + 1)
  try:
    return read_text(data.decode())
  except UnicodeDecodeError as e:
    raise core.UserError(f'{path}: is not UTF-8 text.') from e
  except core.UserError as e:
    raise core.UserError(f'{path}: {e}') from e


def read_text(text: str) -> tuple[recipe_lib.Recipe, ...]:
  """The recipes of a YAML text in the order to run them.

  A recipe names an earlier one by its `name` in place of a model's path. The
  last one returned is the output: the one that no other uses.

  Raises:
    UserError: not sound YAML, or not a recipe; methods that cannot take the
      inputs listed; stages that use one another in a circle or that nothing
      uses, duplicate names.
  """
  documents = [d for d in fields.load_documents(text) if d is not None]
  if not documents:
    raise core.UserError('The file has no recipe.')
  recipes = []
  for number, document in enumerate(documents, 1):
    try:
      recipe = recipe_lib.read_document(document)
      inputs.check_inputs(recipe)
    except core.UserError as e:
      several = f'document {number}: ' if len(documents) > 1 else ''
      raise core.UserError(f'{several}{e}') from e
    recipes.append(recipe)
  return _ordered(recipes)


def mentions(recipe: recipe_lib.Recipe) -> tuple[str, ...]:
  """Every model that a recipe names, also for its tokens only."""
  models = [recipe.base_model, *(part.base_model for part in recipe.slices),
           *recipe.references]
  if recipe.tokenizer:
    if recipe.tokenizer.source not in ('union', 'base'):
      models.append(recipe.tokenizer.source)
    models += [token.model for token in recipe.tokenizer.tokens.values()]
  return tuple(dict.fromkeys(m for m in models if m))


def replace(recipe: recipe_lib.Recipe, paths: Mapping[str, str]
            ) -> recipe_lib.Recipe:
  """The recipe with `paths` in place of the names of stages."""
  def new(model: Any) -> Any:
    if model is None:
      return None
    path, plus, adapter = model.partition('+')
    return str(paths.get(path, path)) + plus + adapter

  slices = tuple(part._replace(
      base_model=new(part.base_model),
      inputs=tuple(s._replace(model=new(s.model)) for s in part.inputs))
                 for part in recipe.slices)
  tokenizer = recipe.tokenizer
  if tokenizer:
    tokens = {name: token._replace(model=new(token.model))
              for name, token in tokenizer.tokens.items()}
    tokenizer = tokenizer._replace(source=new(tokenizer.source), tokens=tokens)
  return recipe._replace(slices=slices, base_model=new(recipe.base_model),
                         tokenizer=tokenizer)


def check_paths(recipes) -> None:
  """Refuses models that are neither on disk nor a stage.

  Raises:
    UserError: names the model, and the stage it may have meant.
  """
  names = [r.name for r in recipes if r.name]
  for recipe in recipes:
    for model in mentions(recipe):
      exists = os.path.exists(os.path.expanduser(model))  # with a + in it
      for number, path in enumerate([] if exists else model.split('+')):
        if (number == 0 and path in names) or os.path.exists(
            os.path.expanduser(path)):
          continue
        close = difflib.get_close_matches(path, names, 1)
        hint = (f' Did you mean stage {close[0]!r}?' if close else
                ' Nothing is downloaded; fetch it and give its directory.')
        raise core.UserError(f'{path}: no such file or directory.{hint}')


def _ordered(recipes):
  names = [r.name for r in recipes]
  for name in names:
    if names.count(name) > 1:
      raise core.UserError(
          f'name {name!r} is that of {names.count(name)} recipes.' if name else
          f'{names.count(None)} recipes have no name; only the last stage may '
          'lack one.')
    if name is not None and not re.fullmatch(r'\w[\w.-]*', name):
      raise core.UserError(f'name {name!r} must be letters, digits, "_", "-", '
                           '".": it becomes a folder.')
  by_name = {r.name: r for r in recipes}
  uses = {r.name: [p for p in (m.partition('+')[0] for m in mentions(r))
                   if p in by_name] for r in recipes}
  ordered, state = [], {}

  def visit(name, trail):
    if name in trail:
      circle = trail[trail.index(name):] + (name,)
      raise core.UserError(f'stages use one another in a circle: '
                           f'{" -> ".join(map(str, circle))}.')
    if name not in state:
      for other in uses[name]:
        visit(other, trail + (name,))
      state[name] = True
      ordered.append(by_name[name])

  for name in by_name:
    visit(name, ())
  used = {name for users in uses.values() for name in users}
  tops = [name for name in by_name if name not in used]
  if len(tops) > 1:
    raise core.UserError(f'stages {", ".join(map(repr, tops))} are used by no '
                         'other; one of them can be the output.')
  ordered.remove(by_name[tops[0]])
  return (*ordered, by_name[tops[0]])
