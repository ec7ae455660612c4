"""Whether the inputs of a recipe are those that its method takes."""
from kt_jax import core
from kt_jax.cli import methods


def check_inputs(recipe) -> None:
  """Refuses methods that are not there, and slices that they cannot take.

  Raises:
    UserError: an input listed twice, no base where one must be, too few or too
      many inputs.
  """
  method = methods.get(recipe.method)
  for number, part in enumerate(recipe.slices):
    where = 'models' if recipe.whole else f'slices[{number}]'
    models = [source.model for source in part.sources]
    base = part.base_model or recipe.base_model
    for model in models:
      if models.count(model) > 1:
        raise core.UserError(f'{where} has {model!r} twice.')
    if method.base == 'ignored':
      base = None
    if base and base not in models:
      raise core.UserError(f'{where}: base_model {base!r} must be one of the '
                           f'sources {models}.')
    check_count(method, where, len(models), bool(base))


def check_count(method: methods.Method, where: str, inputs: int, based: bool
                ) -> None:
  """Refuses a number of inputs, the base among them, that is not right."""
  if method.base == 'required' and not based:
    raise core.UserError(f'{where}: {method.name} needs a base_model.')
  for count, (least, most), word in (
      (inputs, method.inputs, 'inputs, the base counted'),
      (inputs - based, method.others, 'models beside the base')):
    if count < least or most is not None and count > most:
      need = (f'exactly {least}' if least == most else
              f'at least {least}' if count < least else f'at most {most}')
      hint = ('; base_model is an input here' if method.base == 'ignored'
              and most == 1 else '')
      raise core.UserError(f'{where}: {method.name} takes {need} {word}, got '
                           f'{count}{hint}.')
