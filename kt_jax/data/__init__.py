"""Images and text by name, batches as a function of (seed, step) only.

  splits = data.load({'name': 'cifar10', 'validation': 0.1})
  batches = data.stream(splits.train, batch_size=128, seed=0,
                        augment={'crop': {'padding': 4}, 'flip': {}})
  images = data.normalize(next(batches)['images'], splits.info.mean,
                          splits.info.std)

| to | use |
|---|---|
| decode and split a set | `load` of an `Images` spec |
| read its shapes from headers | `abstract` |
| use a set of your own | `module:function`, returns `from_arrays(...)` |
| train one model on several | `Images('kt_jax.data:union', kw=...)` |
| train | `stream`; augmentations in `data/augment.py` |
| evaluate | `batches_for_eval`; `augmented` for shifted test sets |
| cache outputs of a teacher | `write_cache`, `read_cache`, `attach_cached` |
| augment an example in K fixed ways | `stream(views=K)`; `views` is one way |
| work on the global batch in the step | `normalize`, `mixup`, `cutmix` |
| lay text, pairs, tasks out in rows of tokens | `load_text` of a `Text` spec |
| compute its shapes | `abstract_text` |
| a task of strings | a domain with source `task:NAME`; `data/toy` |
| draw rows of domains by shares that change | `mixed_stream` |
| text to ids and back | `tokenizer` |
| compare the tokens of two models | `align_vocabularies`, `align_positions` |
| write rows in the tokens of another model | `retokenize` |
"""
from kt_jax.data.arrays import Arrays as Arrays
from kt_jax.data.arrays import Info as Info
from kt_jax.data.arrays import Source as Source
from kt_jax.data.arrays import Splits as Splits
from kt_jax.data.arrays import stratified as stratified
from kt_jax.data.augment import parse_augment as parse_augment
from kt_jax.data.cache import cache_dir as cache_dir
from kt_jax.data.cache import lock as lock
from kt_jax.data.derived import overlaid as overlaid
from kt_jax.data.load import abstract as abstract
from kt_jax.data.load import load as load
from kt_jax.data.load_text import abstract_text as abstract_text
from kt_jax.data.load_text import load_text as load_text
from kt_jax.data.mix import cutmix as cutmix
from kt_jax.data.mix import mixup as mixup
from kt_jax.data.mix import normalize as normalize
from kt_jax.data.mixed_stream import mixed_stream as mixed_stream
from kt_jax.data.records import Layout as Layout
from kt_jax.data.retokenize import retokenize as retokenize
from kt_jax.data.retokenize import Retokenized as Retokenized
from kt_jax.data.sources import from_arrays as from_arrays
from kt_jax.data.specs import Domain as Domain
from kt_jax.data.specs import Images as Images
from kt_jax.data.specs import Text as Text
from kt_jax.data.stream import batches_for_eval as batches_for_eval
from kt_jax.data.stream import stream as stream
from kt_jax.data.teacher_cache import attach_cached as attach_cached
from kt_jax.data.teacher_cache import fill_logits as fill_logits
from kt_jax.data.teacher_cache import full_key as full_key
from kt_jax.data.teacher_cache import read_cache as read_cache
from kt_jax.data.teacher_cache import TeacherCache as TeacherCache
from kt_jax.data.text_arrays import TextArrays as TextArrays
from kt_jax.data.token_alignment import align_positions as align_positions
from kt_jax.data.token_alignment import align_vocabularies as align_vocabularies
from kt_jax.data.tokenizer import Tokenizer as Tokenizer
from kt_jax.data.tokenizer import tokenizer as tokenizer
from kt_jax.data.toy import ASPECTS as ASPECTS
from kt_jax.data.toy import class_aspects as class_aspects
from kt_jax.data.toy import image_aspects as image_aspects
from kt_jax.data.toy import shuffled_aspects as shuffled_aspects
from kt_jax.data.union import union as union
from kt_jax.data.views import augmented as augmented
from kt_jax.data.views import views as views
from kt_jax.data.write_cache import write_cache as write_cache
