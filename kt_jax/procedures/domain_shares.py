"""Shares of domains in the data, by the gap of student to teacher."""
from collections.abc import Sequence

import numpy as np

from kt_jax import core


def domain_shares(ratios: Sequence[float], shares: Sequence[float] | None,
                  *, smoothing: float = 0.5, limit: float = 4.0) -> np.ndarray:
  r"""Updates the shares by which N domains are sampled.

    rho_i = min(ratio_i, limit),   psi_i = r_i e^{rho_i},
    r <- (1 - smoothing) psi / sum(psi) + smoothing / N;   first, softmax(rho).

  Args:
    ratios: `[N]`, the student's perplexity over its teacher's.
    shares: `[N]`, the current r; None for the first ones.
    smoothing: share of the uniform mixture, in [0, 1].
    limit: upper limit of the ratios; those of a small student may overflow.

  Returns:
    `[N]` float64 that sum to 1.

  Departures: the limit is ours.

  References: liu2024ddk.
  """
  core.check_fraction('domain_shares', smoothing=smoothing)
  rho = np.minimum(np.asarray(ratios, np.float64), limit)
  new = np.exp(rho) * (1 if shares is None else np.asarray(shares))
  new /= new.sum()
  if shares is None:
    return new
  return (1 - smoothing) * new + smoothing / len(new)
