"""Made-up data: string tasks, and questions about digits.

The tasks are what `task:NAME` names as the source of a text domain; all of
them are in `strings.py`.
"""
from kt_jax.data.toy.aspects import ASPECTS as ASPECTS
from kt_jax.data.toy.aspects import class_aspects as class_aspects
from kt_jax.data.toy.aspects import image_aspects as image_aspects
from kt_jax.data.toy.aspects import shuffled_aspects as shuffled_aspects
from kt_jax.data.toy.strings import add as add
from kt_jax.data.toy.strings import copy as copy
from kt_jax.data.toy.strings import facts as facts
from kt_jax.data.toy.strings import noise as noise
from kt_jax.data.toy.strings import pairs_of as pairs_of
from kt_jax.data.toy.strings import recall as recall
from kt_jax.data.toy.strings import reverse as reverse
from kt_jax.data.toy.strings import shift as shift
from kt_jax.data.toy.strings import sort as sort
from kt_jax.data.toy.strings import style as style
from kt_jax.data.toy.strings import substitution as substitution
from kt_jax.data.toy.strings import upper as upper
