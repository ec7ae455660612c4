"""What a recipe says in vain: parameters and filters that nothing reads."""
from kt_jax import core
from kt_jax.cli import methods
from kt_jax.cli import places
from kt_jax.cli import problems as problems_lib


def report(recipe, method: methods.Method, used: set[tuple[str, str, int]],
           problems: problems_lib.Problems) -> None:
  """Adds a line for each of them, as mergekit would ignore it in silence.

  Args:
    recipe: a recipe.
    method: its method.
    used: `(where, parameter, number of the choice)` of what some tensor took.
    problems: takes them.
  """
  known = {p.name: p for p in (*method.parameters, *method.extra)}
  read = {(where, name) for where, name, _ in used}
  for where, given, per_input in places.list_levels(recipe):
    for name, choices in given.items():
      at = f'{where}.{name}'
      if name not in known:
        problems.add('warning', f'{at} is not read. ' + core.nearest(
            f'parameter of {method.name}', name, known))
      elif problems.errors():
        continue  # tensors that failed have read nothing
      elif name in method.idle:
        problems.add('note', f'{at} changes nothing with {method.name}.')
      elif per_input and known[name].scope == 'shared':
        problems.add('warning', f'{at} is not read: {name} is one for all '
                     'inputs; put it under the parameters of the recipe.')
      elif (where, name) in read or any(c.filter for c in choices):
        for number, choice in enumerate(choices):
          if (where, name, number) not in used:
            which = (f'filter {choice.filter!r}' if choice.filter else
                     'the choice without filter')
            problems.add('warning', f'{at}: {which} applies to no tensor.')
      else:
        problems.add('note', f'{at} is not read: all inputs that have it are '
                     'told closer by, or are the base.')
