"""String tasks: pairs of a prompt and the one right response.

Each `NAME(rng, count, **kw)` returns `count` pairs; some may be equal. All
characters are newline and printable ASCII. The prompt names the task where the
task does not show otherwise, so that tasks mix.

| task | prompt | response |
|---|---|---|
| `add` | `17+25=` | `42` |
| `reverse`, `sort`, `copy`, `upper` | `sort bca=` | `abc` |
| `recall` | `a3b7c1?b=` | `7` |
| `shift`, `substitution` | `shift3 dssoh=` | `apple` |
| `facts` | `qmxa?` | `fxe` |
| `style` | of another task | its response in another format |
| `noise` | `noise kqz=` | random letters |
"""
import string

import numpy as np

from kt_jax import core

LOWER = string.ascii_lowercase
WORDS = ('apple bread chair dance earth flame grass house island juice knife '
         'lemon mouse night ocean paper queen river stone table under voice '
         'water young zebra bird cloud door eye fish gold hand iron jump king '
         'leaf moon nose oak pig quick rain snow tree up vase wind box year '
         'zoo').split()
Pairs = list[tuple[str, str]]


def generator(*entropy: int) -> np.random.Generator:
  """The source of randomness of tasks; the same for the same integers."""
  return np.random.Generator(np.random.Philox(np.random.SeedSequence(entropy)))


# NumPy keeps the raw stream of a bit generator, of which `random` is one
# multiplication; `integers` and `permutation` may change.


def randint(rng, low: int, high: int) -> int:
  """An integer from `low` to `high`, both included."""
  return low + int(rng.random() * (high - low + 1))


def shuffled(rng, items) -> list:
  return [items[i] for i in np.argsort(rng.random(len(items)), kind='stable')]


def word(rng, shortest: int, longest: int, letters: str = LOWER) -> str:
  if not 0 < shortest <= longest or not letters:
    raise core.UserError(f'A word must have at least 1 letter, got '
                         f'shortest={shortest}, longest={longest}, '
                         f'letters={letters!r}.')
  length = randint(rng, shortest, longest)
  return ''.join(letters[int(x * len(letters))] for x in rng.random(length))


def add(rng, count: int, *, digits: int = 2) -> Pairs:
  """Sums of two numbers of up to `digits` digits."""
  if digits < 1:
    raise core.UserError(f'digits must be >= 1, got {digits!r}.')
  top = 10**digits - 1
  numbers = [(randint(rng, 0, top), randint(rng, 0, top))
             for _ in range(count)]
  return [(f'{a}+{b}=', str(a + b)) for a, b in numbers]


def _of_words(name: str, change):
  def task(rng, count: int, *, shortest: int = 3, longest: int = 8,
           letters: str = LOWER) -> Pairs:
    words = [word(rng, shortest, longest, letters) for _ in range(count)]
    return [(f'{name} {x}=', change(x)) for x in words]
  task.__name__ = task.__qualname__ = name
  task.__doc__ = f'`{name}` of words of random letters.'
  return task


reverse = _of_words('reverse', lambda x: x[::-1])
sort = _of_words('sort', lambda x: ''.join(sorted(x)))
copy = _of_words('copy', lambda x: x)
upper = _of_words('upper', str.upper)


def recall(rng, count: int, *, size: int = 4, letters: str = LOWER) -> Pairs:
  """The digit that stands after the letter that is asked for."""
  if not 1 <= size <= len(letters):
    raise core.UserError(f'size must be from 1 to {len(letters)}, got '
                         f'{size!r}.')
  pairs = []
  for _ in range(count):
    keys = shuffled(rng, letters)[:size]
    values = [str(randint(rng, 0, 9)) for _ in keys]
    at = randint(rng, 0, size - 1)
    listed = ''.join(k + v for k, v in zip(keys, values))
    pairs.append((f'{listed}?{keys[at]}=', values[at]))
  return pairs


def _ciphers(rng, count: int, name: str, key: int, alphabet: str,
             shortest: int, longest: int) -> Pairs:
  if not 1 <= shortest <= longest:
    raise core.UserError(f'A phrase must have at least 1 word, got '
                         f'shortest={shortest}, longest={longest}.')
  table, pairs = str.maketrans(LOWER, alphabet), []
  for _ in range(count):
    plain = ' '.join(WORDS[randint(rng, 0, len(WORDS) - 1)]
                     for _ in range(randint(rng, shortest, longest)))
    pairs.append((f'{name}{key} {plain.translate(table)}=', plain))
  return pairs


def shift(rng, count: int, *, key: int = 3, shortest: int = 1,
          longest: int = 3) -> Pairs:
  """Phrases with every letter moved on by `key`; each key is a language."""
  k = key % len(LOWER)
  return _ciphers(rng, count, 'shift', key, LOWER[k:] + LOWER[:k], shortest,
                  longest)


def substitution(rng, count: int, *, key: int = 0, shortest: int = 1,
                 longest: int = 3) -> Pairs:
  """Phrases in a permuted alphabet; each key is a language."""
  alphabet = ''.join(shuffled(generator(key, 1), LOWER))
  return _ciphers(rng, count, 'substitution', key, alphabet, shortest, longest)


def facts(rng, count: int, *, table: int = 0, size: int = 256,
          key_length: int = 4, value_length: int = 3) -> Pairs:
  """Entries of the `table`-th table of `size` random facts.

  A value can be known from training only: set `disjoint` of the domain to
  False, so that the test asks for facts of the training split.
  """
  top = len(LOWER)**key_length // 2  # so that new keys are found soon
  if not 1 <= size <= top:
    raise core.UserError(f'size must be from 1 to {top} for keys of '
                         f'{key_length} letters, got {size!r}.')
  source, known = generator(table, 2), {}
  while len(known) < size:
    known.setdefault(word(source, key_length, key_length),
                     word(source, value_length, value_length))
  listed = list(known.items())
  entries = [listed[randint(rng, 0, size - 1)] for _ in range(count)]
  return [(f'{k}?', v) for k, v in entries]


def noise(rng, count: int, *, shortest: int = 3, longest: int = 8) -> Pairs:
  """Responses independent of the prompt: there is nothing to learn."""
  draw = lambda: word(rng, shortest, longest)
  return [(f'noise {draw()}=', draw()) for _ in range(count)]


def style(rng, count: int, *, task: str = 'add', prefix: str = '',
          suffix: str = '', uppercase: bool = False, kw=()) -> Pairs:
  """The pairs of `task` with its settings `kw`, the response reformatted."""
  return [(prompt, prefix + (x.upper() if uppercase else x) + suffix)
          for prompt, x in pairs_of(task, rng, count, dict(kw))]


def pairs_of(name: str, rng: np.random.Generator, count: int, /, kw) -> Pairs:
  """`count` pairs of the task of this name, or of the user's 'module:function'.

  Raises:
    UserError: no such task, or a setting that it does not take.
  """
  from kt_jax.data import toy  # the registry, which imports this module
  # Only tasks take a count.
  task = core.resolve(toy, name, 'task', takes='count')
  try:
    return core.bind(task, {'rng': rng, 'count': count}, **kw)
  except (TypeError, ValueError) as e:
    raise core.UserError(f'task {name!r}: {e}') from e
