"""Every loss in float64 NumPy, written from its formula, not from its code.

Functions have the names and settings of the losses and take the rows that count
only. They return one value per row, or the mean where a relation is a single
number. `frozen` are the arrays again, for parts of a formula whose gradient is
stopped: a finite difference moves the other arrays only. `rows` are the places
of the rows in the batch, on which random numbers depend.
"""
import importlib

KINDS = [importlib.import_module(f'losses_cases.reference.{kind}')
         for kind in ('response', 'feature', 'relation', 'sequence')]


def get(loss: str):
  """The reference of a loss by name."""
  return next(getattr(kind, loss) for kind in KINDS if hasattr(kind, loss))
