r"""Model Breadcrumbs: one setting, found on two tasks, used on four and eight.

  python -m experiments.run --workdir runs/breadcrumbs \
      --config configs/davari2023breadcrumbs/mnist.py:small

Experts of turned digits. What two tasks' held-out data choose, for breadcrumbs
(share kept, outliers dropped, scale), for task arithmetic (scale) and for the
ablations, stays as tasks are added. `top` drops outliers only, `bottom` keeps
them and drops the small entries.
The paper merges CLIP's ViTs: no such variant.

What two tasks choose on held-out images is too large for eight, most of all
where outliers go. Tried on such images of other seeds: bounds in each row
(70 percent on eight), no trim of the head (68), outliers of 0.03 to 0.1 percent
(69), against 67 as it is and 71 for task arithmetic.

Here, `small` (pooled accuracy; on 2, 4 and 8 tasks):

  breadcrumbs over arithmetic: -0.0037 +- 0.0010, fails; -0.0157 +- 0.0069,
    fails; -0.0383 +- 0.0186, fails
  less lost from 2 to 8 than by arithmetic (normalized): -0.0364 +- 0.0199,
    undecided
  breadcrumbs over mean: -0.0016 +- 0.0016, undecided; -0.0268 +- 0.0073, fails;
    -0.1795 +- 0.0196, fails
  breadcrumbs over top: +0.0027 +- 0.0009, holds; +0.0076 +- 0.0045, undecided;
    +0.0241 +- 0.0321, undecided
  breadcrumbs over bottom: -0.0042 +- 0.0007, fails; -0.0214 +- 0.0064, fails;
    -0.0638 +- 0.0151, fails
"""
from configs import common
from configs.common import mnist

VARIANTS = {'small': '5 min, 2 busy cores', 'tiny': 'seconds'}


def get_config(variant: str = 'small'):
  scale = (0.2, 0.3, 0.4, 0.6, 0.8, 1.0, 1.3)
  gamma, density = (0.003, 0.006, 0.01), (0.1, 0.2, 0.4)
  crumbs = lambda settings=None, **tune: common.merging(
      'breadcrumbs', weight=(1.0,), settings=settings or {},
      tune=dict(scale=scale, **tune))
  c = mnist.merge_rotations(
      'davari2023breadcrumbs',
      breadcrumbs=crumbs(gamma=gamma, density=density),
      # All but the outliers stay: no entry is below the bound.
      top=crumbs(dict(density=0.99), gamma=gamma),
      bottom=crumbs(dict(gamma=0.0), density=density))
  for count in (2, 4, 8):
    for other in ('arithmetic', 'mean', 'top', 'bottom'):
      c.claims[f'{other}_{count}'] = common.claim(
          f'breadcrumbs_{count}', f'{other}_{count}', 'pooled')
  # What is lost from two tasks to eight is less.
  c.claims.drop = common.claim(
      'breadcrumbs_8', 'arithmetic_8', 'normalized',
      above=('breadcrumbs_2', 'arithmetic_2'))
  return mnist.merge_variant(c, variant, VARIANTS)
