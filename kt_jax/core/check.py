"""Checks at the door of a function."""


def check_logits(fn: str, **logits) -> None:
  """Refuses logits `[..., K]` that cannot be compared with one another.

  Args:
    fn: name of the caller, for the message.
    **logits: argument name -> array; the first sets the shape.

  Raises:
    ValueError: no class axis, or shapes that differ.
  """
  (first, reference), *others = logits.items()
  if reference.ndim < 1:
    raise ValueError(f'{fn}: {first} must be [..., K], got a scalar.')
  for name, value in others:
    if value.shape != reference.shape:
      raise ValueError(
          f'{fn}: {name} has shape {value.shape}, {first} {reference.shape}; '
          'they must agree (the last axis counts the classes).')
