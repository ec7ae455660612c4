"""Alignment: correspondences between the units of two networks.

A spec lists the axes of leaves that are reordered together. It is data, a dict
from the path of a leaf to one entry per axis:

  {'fc1/kernel': (None, 'hidden'), 'fc1/bias': ('hidden',),
   'fc2/kernel': ('hidden', None), 'fc2/bias': (None,)}

None fixes an axis; a name is a group of units. Row-major factors, sizes and at
most one name, are for units that are blocks of an axis: `('heads', 64)` for
heads of width 64, `(49, 'channels')` for channels that a dense layer reads at
49 positions. `models.permutation_spec` returns it for the networks of kt_jax.

Every function moves the first network, A, towards the second, B, and runs on
the host with NumPy and SciPy. A spec may have more leaves than the parameters,
such as BatchNorm's statistics; `params | stats` moves those too.
"""
from kt_jax.align.activation_matching import (
    activation_matching as activation_matching,
)
from kt_jax.align.optimal_transport import (
    optimal_transport as optimal_transport,
)
from kt_jax.align.permute import permute as permute
from kt_jax.align.spec import check_spec as check_spec
from kt_jax.align.spec import group_names as group_names
from kt_jax.align.transport import transport as transport
from kt_jax.align.weight_matching import weight_matching as weight_matching
