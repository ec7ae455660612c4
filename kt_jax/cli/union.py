"""The union of vocabularies."""
from collections.abc import Iterable, Mapping, Sequence
import copy
import logging
from typing import Any

from kt_jax import core
from kt_jax.cli import vocabulary as vocabulary_lib
from kt_jax.cli.vocabulary import Vocabulary


def grow_vocabulary(base: Vocabulary, others: Sequence[Vocabulary],
                    more: Iterable[str] = ()) -> Vocabulary:
  """A vocabulary with every token of `base`, `others` and `more`.

  Tokens of `base` keep their ids. Behind them come the regular tokens of the
  others, then their added (special) ones, then `more`; each in the order of
  the models, then of ids. A BPE vocabulary gets the merges that lead to its new
  tokens, behind its own, so that text without them is split as before.

  Args:
    base: origin of ids, normalizer, pre-tokenizer and all other settings.
    others: origin of more tokens; the first to add a token sets its flags.
    more: tokens that are added as they are.

  Returns:
    A `Vocabulary` with `base.folder` and `base.config`.

  Raises:
    UserError: a Unigram vocabulary with unused ids.

  Departures: mergekit adds the words of the others as added tokens: those match
  anywhere in a text, within words of the base too, and a token that has a
  space's mark in it never matches. Here they are words of the model as they
  were, with their merges. Its order of new ids changes from run to run.
  """
  spec = copy.deepcopy(base.spec)
  tokens = dict(base.tokens)
  added = {k: dict(v) for k, v in base.added.items()}
  free = max(tokens.values(), default=-1) + 1
  scores, merges = {}, []

  def take(token):
    nonlocal free
    if token not in tokens:
      tokens[token] = free
      free += 1

  for other in others:
    new = [t for t in sorted(other.tokens, key=other.tokens.__getitem__)
           if t not in other.added and t not in tokens]
    for token in new:
      take(token)
    alike = other.kind == base.kind
    if new and not alike:
      logging.getLogger('kt_jax').warning(
          'The tokenizers of %s (%s) and %s (%s) spell tokens differently; '
          'the new tokens have embeddings but text is not split into them.',
          base.folder.name, base.kind[0], other.folder.name, other.kind[0])
    elif new:
      scores.update(_scores(other, new))
      merges += _merges(other, set(new))
  for token, entry in _flags(others):
    if token not in added:
      take(token)
      added[token] = dict(entry, id=tokens[token])
  for token in more:
    if token not in tokens:
      take(token)
      added[token] = vocabulary_lib.FLAGS | {'id': tokens[token],
                                             'content': token}
  changed = tokens != base.tokens or added != base.added
  if changed:
    spec['model'] = _model(spec['model'], tokens, scores, merges, base)
    spec['added_tokens'] = sorted(added.values(), key=lambda e: e['id'])
  return Vocabulary(base.folder, tokens, added, spec, base.config,
                    base.complete and not changed)


def _flags(others) -> list[tuple[str, dict[str, Any]]]:
  return [(token, entry) for other in others
          for token, entry in sorted(other.added.items(),
                                     key=lambda item: item[1]['id'])]


def _scores(other, new) -> dict[str, float]:
  if other.spec['model']['type'] != 'Unigram':
    return {}
  table = dict(map(tuple, other.spec['model']['vocab']))
  return {token: table[token] for token in new}


def _merges(other, new) -> list[tuple[str, str]]:
  """The merges that lead to the tokens of `new`, in their order."""
  model = other.spec['model']
  prefix = model.get('continuing_subword_prefix') or ''
  pairs = map(vocabulary_lib.merge_pair, model.get('merges') or ())
  return [(a, b) for a, b in pairs if a + b.removeprefix(prefix) in new]


def _model(model, tokens: Mapping[str, int], scores, merges, base):
  """The model with all tokens in it, added ones too.

  The tokenizers library numbers added tokens that the model lacks from the
  model's size on, whatever their id in the file.
  """
  model = dict(model)
  order = sorted(tokens, key=tokens.__getitem__)
  if model['type'] == 'Unigram':
    if [tokens[t] for t in order] != list(range(len(order))):
      raise core.UserError(f'{base.folder}: the ids of its Unigram vocabulary '
                           'have holes; nothing can be added to it.')
    own = dict(map(tuple, model['vocab']))
    least = min(own.values(), default=0.0)
    model['vocab'] = [[t, own.get(t, scores.get(t, least))] for t in order]
    return model
  model['vocab'] = {t: tokens[t] for t in order}
  if model['type'] == 'BPE':
    own = list(map(vocabulary_lib.merge_pair, model['merges']))
    old = set(own)
    pairs = own + [pair for pair in dict.fromkeys(merges)
                   if pair not in old and set(pair) <= tokens.keys()]
    plain = not any(' ' in side for pair in pairs for side in pair) and all(
        isinstance(m, str) for m in model['merges'])
    model['merges'] = [' '.join(p) if plain else list(p) for p in pairs]
  return model
