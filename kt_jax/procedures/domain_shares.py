"""Shares of domains that follow how far a student is behind."""
from collections.abc import Sequence

import numpy as np

from kt_jax import core


def domain_shares(ratios: Sequence[float], shares: Sequence[float] | None,
                  *, smoothing: float = 0.5, limit: float = 4.0) -> np.ndarray:
  r"""The next shares of N domains, which are sampled by them.

    rho_i = min(ratio_i, limit),   psi_i = r_i e^{rho_i},
    r <- (1 - smoothing) psi / sum(psi) + smoothing / N;   at first softmax(rho).

  Args:
    ratios: `[N]`, the student's perplexity over its teacher's.
    shares: `[N]`, r so far; None: there are none yet.
    smoothing: share of the uniform mixture, in [0, 1].
    limit: on the ratios; a small student's may overflow the exponential.

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
