"""Times of several things in turn, so that a ratio is of one moment."""
from collections.abc import Callable, Mapping
import time

import jax
import numpy as np
import tqdm

Run = Callable[[int], float]  # number of calls -> milliseconds per call


def timed(fn, *args) -> Run:
  """Calls that wait for one another."""
  def run(count):
    begin = time.perf_counter()
    for _ in range(count):
      jax.block_until_ready(fn(*args))
    return 1e3 * (time.perf_counter() - begin) / count
  return run


def in_turns(name: str, cases: Mapping[str, Run], calls: Mapping[str, int],
             turns: int) -> dict[str, list[float]]:
  """Case -> milliseconds per call, of each turn; each is run once before.

  Every other turn runs the cases in reverse.
  """
  times = {case: [] for case in cases}
  for run in cases.values():
    run(1)  # compiles
  for turn in tqdm.trange(turns, desc=name, disable=None):
    for case in list(cases)[::-1 if turn % 2 else 1]:
      times[case].append(cases[case](calls[case]))
  return times


def quartiles(values, form: str) -> str:
  return ' to '.join(format(np.percentile(values, q), form) for q in (25, 75))
