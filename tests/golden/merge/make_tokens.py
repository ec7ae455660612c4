"""Makes tokens/: tiny models of different vocabularies, and mergekit's merges.

Run once, in an environment of its own: python make_tokens.py. What is stored
was made with mergekit 0.1.5, torch 2.13.0, transformers 5.23.0 and tokenizers
0.23.3 on Python 3.11; weights are random, nothing is downloaded. mergekit
numbers new tokens in another order in each run, so a row is stored beside the
token it belongs to.
"""
import json
import pathlib
import shutil
import tempfile

from mergekit import config as mk_config
from mergekit import merge as mk_merge
import numpy as np
from safetensors import torch as st
import tokenizers
import torch
import transformers
import yaml

OUT = pathlib.Path(__file__).parent / 'tokens'
SPECIAL = ['<s>', '</s>']

# Words, merges, added tokens, rows of the embedding beyond the vocabulary.
MODELS = {
    'a': (list('abcdG') + ['ab', 'abc', 'Ga'], ['a b', 'ab c', 'G a'], [], 0),
    'b': (list('dcbaeG') + ['bc', 'cd', 'ab', 'Gb', 'abcd'],
          ['b c', 'c d', 'a b', 'G b', 'ab cd'], ['<|im|>'], 2),
    'c': (list('abcdeG') + ['Ga', 'cd', 'de'], ['G a', 'c d', 'd e'],
          ['<|im|>', '<tool>', '<late>'], -1),
}
TWO = [('a', 0.3), ('b', 0.9)]
THREE = [('a', 0.3), ('b', 0.9), ('c', 0.5)]
CASES = {
    'union': (THREE, None, dict(tokenizer_source='union')),
    # Without a base_model, mergekit's choice of base changes from run to run.
    'base': ([('b', 0.9), ('c', 0.5)], 'a', dict(tokenizer_source='base')),
    'model': (THREE, None, dict(tokenizer_source='b')),
    'union_of_two': (TWO, None, dict(tokenizer_source='union')),
    'with_base': ([('b', 0.9), ('c', 0.5)], 'a',
                  dict(tokenizer_source='union')),
    'overrides': ([('b', 0.9), ('c', 0.5)], 'a', dict(tokenizer=dict(
        source='union', pad_to_multiple_of=16, tokens={
            'e': dict(source=dict(kind='zero')),
            '<tool>': dict(source=dict(kind='model_token', model='a',
                                       token='</s>')),
            'cd': dict(source=dict(kind='model_token', model='b', token_id=2),
                       force=True),
            '<|im|>': dict(source='c'),
            'ab': dict(source='a', force=True)}))),
    'padded': ([('a', 0.3), ('b', 0.9)], 'b', dict(tokenizer=dict(
        source='base', pad_to_multiple_of=7))),
}


def build(name, folder):
  words, merges, added, more = MODELS[name]
  vocab = {t: i for i, t in enumerate(SPECIAL + words)}
  tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(
      vocab, [tuple(m.split()) for m in merges], unk_token=None))
  tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
  tokenizer.add_special_tokens(SPECIAL)
  tokenizer.add_special_tokens(added)
  fast = transformers.PreTrainedTokenizerFast(
      tokenizer_object=tokenizer, bos_token='<s>', eos_token='</s>',
      chat_template=f'{{# {name} #}}' + '{{ messages }}')
  fast.save_pretrained(folder)
  torch.manual_seed(ord(name))
  size = len(vocab) + len(added) + more
  model = transformers.LlamaForCausalLM(transformers.LlamaConfig(
      vocab_size=size, hidden_size=4, intermediate_size=4, num_hidden_layers=1,
      num_attention_heads=1, max_position_embeddings=16, bos_token_id=0,
      eos_token_id=1, tie_word_embeddings=False))
  with torch.no_grad():
    for p in model.parameters():
      p.copy_(torch.randn(p.shape))
  model.save_pretrained(folder)
  (folder / 'generation_config.json').unlink(missing_ok=True)


def merge(weights, base, options, work):
  recipe = dict(
      merge_method='task_arithmetic' if base else 'linear', dtype='float32',
      models=[dict(model=str(OUT / m), parameters=dict(weight=w))
              for m, w in weights],
      parameters=dict(normalize=False), **json.loads(json.dumps(options)))
  if base:
    recipe['base_model'] = str(OUT / base)
  text = yaml.safe_dump(recipe)
  for name in MODELS:
    for key in ('tokenizer_source', 'source', 'model'):
      text = text.replace(f'{key}: {name}\n', f'{key}: {OUT / name}\n')
  mk_merge.run_merge(mk_config.MergeConfiguration.model_validate(
      yaml.safe_load(text)), work, mk_merge.MergeOptions(
          allow_crimes=True, quiet=True))
  out = st.load_file(f'{work}/model.safetensors')
  vocab = transformers.AutoTokenizer.from_pretrained(work).get_vocab()
  size = json.loads((pathlib.Path(work) / 'config.json').read_text())
  tokens = sorted(vocab)
  rest = sorted(set(range(size['vocab_size'])) - set(vocab.values()))
  order = [vocab[t] for t in tokens] + rest
  return dict(tokens=np.array(tokens),
              embed=out['model.embed_tokens.weight'].numpy()[order],
              head=out['lm_head.weight'].numpy()[order])


def main():
  shutil.rmtree(OUT, ignore_errors=True)
  for name in MODELS:
    build(name, OUT / name)
  stored = {}
  for name, (weights, base, options) in CASES.items():
    with tempfile.TemporaryDirectory() as work:
      for key, value in merge(weights, base, options, work).items():
        stored[f'{name}/{key}'] = value
    stored[f'{name}/case'] = np.array(json.dumps([weights, base, options]))
  np.savez_compressed(OUT / 'merged.npz', **stored)


if __name__ == '__main__':
  main()
