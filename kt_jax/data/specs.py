"""Specs of data sets: every key, its default, and what it means."""
from collections.abc import Callable, Mapping
import dataclasses
from typing import Any, Literal

from kt_jax.data.arrays import Source

SPLITS = ('train', 'validation', 'test')
Number = int | float  # a share if below 1, else a count


@dataclasses.dataclass(frozen=True)
class Images:
  """An image data set, its splits, and what is changed in it."""
  # digits, a TFDS image set, 'module:function' or the function itself, called
  # with this spec and kw; or what data.from_arrays returns.
  name: str | Callable[..., Source] | Source = 'digits'
  train: str = 'train'  # TFDS split string: 'train[:10%]', 'train+extra'
  test: str = 'test'
  validation: Number = 0.1  # taken from train, stratified by class
  subset: Number = 0  # of the rest of train that is kept, stratified; 0 all
  classes: tuple[int, ...] = ()  # only these labels, in all splits; () all
  split_seed: int = 1234  # of the validation set and the subset
  imbalance: float = 0.0  # largest : smallest class of train; 0 off
  class_shares: tuple[float, ...] = ()  # kept of each class of train; () all
  label_noise: float = 0.0  # share of train with the label of another class
  test_limit: Number = 0  # of the test set, stratified; 0 all
  data_dir: str = ''  # of TFDS; '' $TFDS_DATA_DIR, else its own default
  size: int = 0  # resize and center crop to this side; 0 native
  rotation: float = 0.0  # degrees, counterclockwise, of every image
  pad: int = 0  # zeros on every side of each image, after resizing
  mean: tuple[float, ...] = ()  # per channel, images on 0 to 1; () of the set
  std: tuple[float, ...] = ()
  kw: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Domain:
  """Texts of one kind.

  Continuous text is cut in windows that overlap by max(P, 1) tokens, documents
  stay whole, pairs put the prompt before position P and the response from there
  on. A source without splits of its own is cut 90 / 5 / 5: text by position,
  documents and pairs at random.
  """
  # 'tiny_shakespeare', a path to .txt (continuous text) or .jsonl ('text':
  # documents; 'prompt' and 'response': pairs), 'task:NAME' of data/toy, or
  # 'module:function', which returns a string, a list of strings or of pairs, or
  # a dict of one of these by split; or that function.
  source: str | Callable[..., Any]
  train: Number = 0  # windows, documents or pairs, drawn at random; 0 all
  validation: Number = 0
  test: Number = 0
  share: float = 1.0  # of the rows of a batch, relative to other domains
  as_text: bool = False  # pairs become documents: prompt, response, newline
  disjoint: bool = True  # no prompt of one split is in another
  kw: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Text:
  """Rows of tokens."""
  name: str = 'text'  # for reports
  tokenizer: str = 'characters'  # or 'bytes', or a folder with tokenizer.json
  length: int = 64  # S, positions of a row
  prompt: int = 0  # P, the first of them; later ones are predicted
  domains: Mapping[str, Domain] = dataclasses.field(default_factory=dict)
  split_seed: int = 1234
  add_bos: bool = False  # prompts and documents begin with the begin token
  add_eos: bool = True  # responses and documents end with the end token
  pack: bool = True  # several documents to a row
  too_long: Literal['refuse', 'drop'] = 'refuse'
  data_dir: str = ''  # where files are looked for first
