"""Recipes of kt-merge: meaning, errors, plans."""
import inspect
import json
import pathlib
import re

import ml_dtypes
import numpy as np
import pytest
import yaml

from kt_jax import checkpoint
from kt_jax import core
from kt_jax import merge
from kt_jax.cli import check
from kt_jax.cli import inputs
from kt_jax.cli import layers
from kt_jax.cli import list_methods
from kt_jax.cli import methods
from kt_jax.cli import plan as plan_lib
from kt_jax.cli import problems
from kt_jax.cli import stages
from kt_jax.cli.open_model import OpenedModel

GOLDEN = json.loads((pathlib.Path(__file__).parent / 'golden' / 'merge'
                     / 'recipes.json').read_text())
BF16 = ml_dtypes.bfloat16


class Header(checkpoint.Tensor):
  """A tensor that must not be read."""

  def read(self, start, out):
    raise AssertionError(f'{self.name} was read')


def llama(model='m', layers=4, dtype=np.float32, rows=11, tied=False, **config):
  shapes = {'model.embed_tokens.weight': (rows, 8), 'model.norm.weight': (8,)}
  if not tied:
    shapes['lm_head.weight'] = (rows, 8)
  for n in range(layers):
    for part, shape in (('input_layernorm', (8,)), ('self_attn.q_proj', (8, 8)),
                        ('mlp.down_proj', (8, 12))):
      shapes[f'model.layers.{n}.{part}.weight'] = shape
  return source(shapes, model, dtype, dict(
      num_hidden_layers=layers, vocab_size=rows, tie_word_embeddings=tied,
      architectures=['LlamaForCausalLM'], **config))


def source(shapes, model='m', dtype=np.float32, config=None):
  tensors = {name: Header(f'{model}:{name}', shape, dtype)
             for name, shape in shapes.items()}
  return OpenedModel(pathlib.Path(model), tensors, config, 'huggingface')


def read(text):
  recipe, = stages.read_text(text)
  return recipe


def planned(text, models=None, **kwargs):
  recipe = read(text)
  models = models or {m: llama(m) for m in recipe.references}
  return plan_lib.make_plan(recipe, models, **kwargs)


def levels(plan, level):
  return [p.text for p in plan.problems if p.level == level]


def jobs(plan):
  problems.refuse(plan.problems)
  return {job.name: job for job in plan.jobs}


LINEAR = """
merge_method: linear
models: [{model: a}, {model: b}]
parameters: {weight: 1}
"""
TIES = """
merge_method: ties
base_model: base
models: [{model: a}, {model: b}]
parameters: {weight: 1, density: 0.5}
"""
STACK = """
merge_method: passthrough
slices:
  - sources: [{model: a, layer_range: [0, 3]}]
  - sources: [{model: b, layer_range: [1, 4]}]
"""


# Parameters.


@pytest.mark.parametrize('case', GOLDEN, ids=lambda c: c['recipe'].split()[1])
def test_parameters_as_in_mergekit(case):
  plan = planned(case['recipe'])
  made = jobs(plan)
  for name, want in case['tensors'].items():
    got = plan.parameters[name]
    shared = {k: {True: 'l1', False: 'none'}[v] if k == 'rescale' else v
              for k, v in want['shared'].items()}
    if 'whole_model' in got['shared']:  # ours alone
      shared['whole_model'] = False
    assert got['shared'] == pytest.approx(shared), name
    assert set(got['each']) == set(want['each']), name
    for model, values in want['each'].items():
      values = {k: 1.0 if v is None else v for k, v in values.items()}
      assert got['each'][model] == pytest.approx(values), (name, model)
    read_ = {t.name for t in (made[name].base, *made[name].models)
             if not isinstance(t, inputs.Zeros)}
    assert read_ == {f'{m}:{n}' for m, n in want['inputs'].items()}, name


def test_golden_has_cases():
  assert len(GOLDEN) >= 12 and all(len(c['tensors']) >= 5 for c in GOLDEN)


@pytest.mark.parametrize('name', list(methods.METHODS))
def test_methods_call_their_operators(name):
  """The operator takes the settings and returns a leaf."""
  method = methods.get(name)
  several = (method.inputs[1] or 3) if method.others[1] is None else 2
  names = ['a', 'b', 'c'][:several]
  listed = ', '.join(f'{{model: {m}}}' for m in names)
  base = 'base_model: a\n' if method.base == 'required' else ''
  plan = planned(f'{base}merge_method: {name}\nmodels: [{listed}]\n'
                 'parameters: {weight: 0.5, t: 0.3, density: 0.6, scale: 0.5}')
  job = jobs(plan)['model.layers.1.self_attn.q_proj.weight']
  rng = np.random.default_rng(0)
  models = rng.normal(size=(len(job.models), 4, 4)).astype(np.float32)
  kwargs = {}
  if 'key' in job.op.__code__.co_varnames[:job.op.__code__.co_argcount]:
    import jax  # pylint: disable=g-import-not-at-top
    kwargs['key'] = jax.random.key(0)
  start = np.zeros((4, 4), np.float32) if isinstance(
      job.base, inputs.Zeros) else rng.normal(size=(4, 4)).astype(np.float32)
  out = job.op(start, models, np.asarray(job.weight, np.float32), **kwargs,
               **job.settings)
  assert out.shape == (4, 4) and np.isfinite(out).all()


def test_linear_weights():
  job = jobs(planned("""
merge_method: linear
models:
  - {model: a, parameters: {weight: 1}}
  - {model: b, parameters: {weight: 3}}
"""))['model.norm.weight']
  assert job.op is merge.linear and job.weight == (0.25, 0.75)
  assert isinstance(job.base, inputs.Zeros)
  job = jobs(planned(LINEAR + '  \n'.replace(' ', '') + 'dtype: bfloat16'))[
      'model.norm.weight']
  assert job.dtype == job.cast == BF16 and job.base.dtype == BF16


def test_settings_of_each_model_and_own_names():
  made = jobs(planned("""
merge_method: dare_ties
base_model: base
models:
  - {model: a, parameters: {weight: 1, density: 0.5}}
  - {model: b, parameters: {weight: 2, density: [0.5, 0.2]}}
parameters: {rescale: inverse, elect: count, lambda: 1e-1}
"""))
  first = made['model.layers.0.mlp.down_proj.weight']
  assert first.weight == (1, 2) and first.settings == dict(
      density=0.5, normalize=False, rescale='inverse', scale=0.1, elect='count')
  last = made['model.layers.3.mlp.down_proj.weight']
  assert last.settings['density'] == pytest.approx((0.5, 0.2))


def test_operators_by_name():
  made = jobs(planned(TIES.replace('ties', 'svd_truncate', 1).replace(
      'density: 0.5', 'rank: 0.3')))
  assert made['lm_head.weight'].op is merge.svd_truncate
  assert made['lm_head.weight'].settings == dict(rank=0.3)
  own = jobs(planned(LINEAR.replace('linear', 'recipe_test:halfway')
                     + 'base_model: a'))
  assert own['lm_head.weight'].settings == dict(share=0.5)
  assert own['lm_head.weight'].base.name == 'a:lm_head.weight'


def halfway(base, models, weight, *, share: float = 0.5):
  """Goes a share of the way to the first model."""
  return base * (1 - share) + share * models[0] * weight[0]


def wrong(base, models, weight):
  del base, weight
  return models


# --list-methods.


LISTED = """
dare_ties
  inputs:     base_model and any number of models
  per model:  weight, density=1.0
  shared:     normalize=false, rescale=l1, lambda=1.0
  operator:   dare(elect=sum, scale=1.0)
  no effect:  int8_mask

slerp
  inputs:     base_model and 1 model
  shared:     t
  operator:   slerp(dot_threshold=0.9995, eps=1e-08)

model_stock
  inputs:     base_model and 2 or more models
  shared:     filter_wise=false
  operator:   model_stock(axis=(none), clip=false)

nuslerp
  inputs:     base_model (optional) and 2 models
  per model:  weight
  shared:     nuslerp_row_wise=false, nuslerp_flatten=true
  operator:   nuslerp(origin=base, axis=(none), eps=1e-08)

passthrough
  inputs:     1 model
  per model:  scale=1.0

svd_truncate
  inputs:     base_model and 1 or more models
  per model:  weight
  shared:     rank=0.1

recipe_test:halfway
  inputs:     base_model and 1 or more models
  per model:  weight
  shared:     share=0.5
"""


def test_methods_are_listed():
  text = list_methods.list_methods()
  for paragraph in LISTED.strip().split('\n\n'):
    name = paragraph.partition('\n')[0]
    first, summary, *rest = list_methods.describe(name).split('\n')
    assert '\n'.join([first, *rest]) == paragraph
    assert summary == '  ' + methods.get(name).operator.__doc__.split('\n')[0]
    assert f'\n{name}\n{summary}\n' in text or ':' in name
  for name in (*methods.METHODS, 'dare', 'multi_source_svd',
               'module:function'):
    assert f'\n{name}\n' in text
  assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize('name', [*methods.METHODS, 'dare', 'fisher',
                                  'recipe_test:halfway'])
def test_listed_defaults_change_nothing(name):
  """A recipe with all of them written out is the recipe with none."""
  text = list_methods.describe(name)
  base = 'base_model: a' if 'base_model' in text else ''
  others = re.search(r'(\d) (or more )?model', text)
  count = (int(others[1]) if others else 2) + bool(base)
  listed = ', '.join(f'{{model: {m}}}' for m in 'abc'[:count])
  models = {m: source({'w': (4, 4)}, m) for m in 'abc'}

  def job(**parameters):
    recipe = f'merge_method: {name}\nmodels: [{listed}]\n{base}\nparameters: '
    return jobs(planned(recipe + json.dumps(parameters), models))['w']

  must = dict(weight=0.3, t=0.2)
  defaults = {k: yaml.safe_load(v) for k, v in
              re.findall(r'(\w+)=([\w.-]+)', text)}
  bare, full = job(**must), job(**must | defaults)
  assert bare.weight == full.weight and bare.op is full.op
  signature = {k: p.default for k, p in inspect.signature(
      bare.op).parameters.items()} if bare.op else {}
  assert signature | dict(full.settings) == signature | dict(bare.settings)
  assert defaults or name in ('arcee_fusion', 'nearswap')


# Tensors of the result.


def test_slices_rename():
  plan = planned(STACK)
  made = jobs(plan)
  assert len([n for n in made if 'q_proj' in n]) == 6
  for layer, name in enumerate(('a', 'a', 'a', 'b', 'b', 'b')):
    got = made[f'model.layers.{layer}.self_attn.q_proj.weight']
    assert got.op is None
    assert got.base.name == (f'{name}:model.layers.{layer - 2 * (name == "b")}.'
                             'self_attn.q_proj.weight')
  assert made['model.embed_tokens.weight'].base.name.startswith('a:')
  assert made['model.norm.weight'].base.name.startswith('b:')
  assert made['lm_head.weight'].base.name.startswith('b:')
  assert plan.config['num_hidden_layers'] == 6
  report = check.check_plan(plan)
  assert report.treatments == dict(merged=0, copied=21, renamed=9)


def test_config_follows_slices():
  models = {
      'a': llama('a', layer_types=['x0', 'x1', 'x2', 'x3'],
                 eos_token_id=[1, 2, 3, 4], torch_dtype='float32',
                 num_layers=2),
      'b': llama('b', layer_types=['y0', 'y1', 'y2', 'y3'])}
  plan = planned(STACK + 'out_dtype: bfloat16', models)
  assert plan.config['layer_types'] == ['x0', 'x1', 'x2', 'y1', 'y2', 'y3']
  assert plan.config['eos_token_id'] == [1, 2, 3, 4]
  assert plan.config['num_hidden_layers'] == 6
  assert plan.config['num_layers'] == 2  # of something else
  assert plan.config['torch_dtype'] == 'bfloat16'
  nested = source({'model.layers.0.w': (2,), 'model.layers.1.w': (2,)},
                  config=dict(text_config=dict(num_hidden_layers=2)))
  plan = planned("""
merge_method: passthrough
slices: [{sources: [{model: a, layer_range: [1, 2]}]}]
""", dict(a=nested))
  assert plan.config == dict(text_config=dict(num_hidden_layers=1))
  assert nested.config == dict(text_config=dict(num_hidden_layers=2))


def test_layers_are_found_by_name():
  names = ['model.layers.0.mlp.experts.0.w', 'model.layers.0.mlp.experts.1.w',
           'model.layers.1.mlp.experts.0.w', 'visual.merger.mlp.0.w',
           'visual.merger.mlp.2.w', 'h_1.w', 'wte.weight']
  found = layers.read_stacks(names, None)
  assert found.counts == {'model.layers.': 2}
  assert found.names[names[1]] == ('model.layers.', 0, '.mlp.experts.1.w')
  assert all(found.names[n].layer is None for n in names[3:])
  found = layers.read_stacks(['encoder.block.0.w', 'encoder.block.1.w',
                              'decoder.block.0.w'], dict(num_layers=2))
  assert found.counts == {'encoder.block.': 2}
  assert layers.read_stacks(['h/0/w'], dict(n_layer=1)).counts == {'h/': 1}


def test_gradients_over_each_stack():
  shapes = {f'{s}.{n}.w': (2,) for s, count in (('enc', 3), ('dec', 2))
            for n in range(count)}
  made = jobs(planned("""
merge_method: slerp
base_model: a
models: [{model: a}, {model: b}]
parameters: {t: [0, 1]}
""", {m: source(shapes, m) for m in 'ab'}))
  assert {n: j.weight[0] for n, j in made.items()} == {
      'enc.0.w': 0, 'enc.1.w': 0.5, 'enc.2.w': 1, 'dec.0.w': 0, 'dec.1.w': 1}


def test_tied_embeddings():
  both = planned(LINEAR, dict(a=llama('a', tied=True), b=llama('b', tied=True)))
  assert 'lm_head.weight' not in jobs(both)
  assert both.config['tie_word_embeddings'] is True
  for order in ('ab', 'ba'):
    tied, free = order
    plan = planned(LINEAR, {tied: llama(tied, tied=True), free: llama(free)})
    got = jobs(plan)['lm_head.weight']
    assert {t.name for t in got.models} == {
        f'{tied}:model.embed_tokens.weight', f'{free}:lm_head.weight'}
    assert plan.config['tie_word_embeddings'] is False
  # The last slice is tied, the first has a head: the result must have one.
  plan = planned(STACK, dict(a=llama('a'), b=llama('b', tied=True)))
  assert jobs(plan)['lm_head.weight'].base.name == 'b:model.embed_tokens.weight'
  # A config that says untied makes a missing head an error.
  lacking = llama('b', tied=True)
  lacking.config['tie_word_embeddings'] = False
  plan = planned(LINEAR, dict(a=llama('a'), b=lacking))
  assert levels(plan, 'error')[0].startswith("b lacks 'lm_head.weight'")


def less(model, name):
  found = llama(model)
  del found.tensors[name]
  return found


def test_missing_and_surplus():
  name = 'model.layers.1.mlp.down_proj.weight'
  for recipe, models in ((LINEAR, 'ab'), (TIES, ('base', 'a', 'b'))):
    for short in models:
      have = {m: llama(m) for m in models} | {short: less(short, name)}
      plan = planned(recipe, have)
      assert levels(plan, 'error')[0].startswith(f'{short} lacks {name!r}')
      with pytest.raises(core.UserError, match=f'{short} lacks'):
        problems.refuse(plan.problems)
  have = dict(a=less('a', name), b=llama('b'))
  plan = planned(LINEAR, have, missing='present')
  assert jobs(plan)[name].weight == (1.0,)
  have = dict(base=less('base', name), a=llama('a'), b=llama('b'))
  plan = planned(TIES, have, missing='present')
  assert levels(plan, 'error') == [f'base, the base, lacks {name!r}.']
  have = dict(base=llama('base'), a=less('a', name), b=less('b', name))
  assert jobs(planned(TIES, have, missing='present'))[name].op is None
  stock = TIES.replace('ties', 'model_stock')
  assert jobs(planned(stock, have, missing='present'))[name].op is None
  have = dict(base=less('base', name), a=llama('a'), b=less('b', name))
  plan = planned(stock, have, missing='present')
  assert name not in jobs(plan) and 'left out' in levels(plan, 'warning')[0]
  for method, lacking, treatment in (
      ('slerp', 'a', 'base'), ('slerp', 'base', 'a'),
      ('nearswap', 'a', 'base'), ('nearswap', 'base', None)):
    pair = TIES.replace('ties', method).replace(', {model: b}', '').replace(
        'weight: 1', 't: 0.1')
    have = {m: llama(m) for m in ('base', 'a')} | {lacking: less(lacking, name)}
    plan = planned(pair, have, missing='present')
    if treatment:
      job = jobs(plan)[name]
      assert job.op is None and job.base.name == f'{treatment}:{name}'
    else:
      assert levels(plan, 'error') == [f'base, the base, lacks {name!r}.']


def test_buffers_are_copied():
  shapes = {'w': (3,), 'rotary_emb.inv_freq': (2,)}
  models = {m: source(shapes, m) for m in ('base', 'a', 'b')}
  count = lambda m, v: checkpoint.ArrayTensor(m, np.asarray([v], np.int64))
  for value, model in ((1, 'base'), (1, 'a'), (2, 'b')):
    models[model].tensors['steps'] = count(f'{model}:steps', value)
  del models['b'].tensors['rotary_emb.inv_freq']
  plan = planned(TIES, models)
  made = jobs(plan)
  assert made['steps'].op is None and made['steps'].base.name == 'base:steps'
  assert made['steps'].dtype is None
  assert made['rotary_emb.inv_freq'].base.name == 'base:rotary_emb.inv_freq'
  assert {name: [t.name[0] for t in held] for name, held in plan.copies.items()
         } == {'steps': ['b', 'a', 'b'], 'rotary_emb.inv_freq': ['b', 'a']}


def test_dtypes():
  models = dict(a=llama('a', dtype=BF16), b=llama('b', dtype=np.float32))
  job = jobs(planned(LINEAR, models))['model.norm.weight']
  assert job.cast == job.dtype == job.base.dtype == np.float32
  models = dict(a=llama('a', dtype=BF16), b=llama('b', dtype=np.float16))
  assert jobs(planned(LINEAR, models))['lm_head.weight'].dtype == np.float32
  models = {m: llama(m, dtype=BF16) for m in 'ab'}
  job = jobs(planned(LINEAR + 'out_dtype: float32', models))['lm_head.weight']
  assert (job.cast, job.dtype, job.base.dtype) == (None, np.float32, BF16)
  models = {m: llama(m, dtype=np.float64) for m in 'ab'}
  plan = planned(LINEAR, models)
  assert jobs(plan)['lm_head.weight'].dtype == np.float32
  assert 'float64' in levels(plan, 'warning')[0]
  models = dict(a=llama('a', dtype=ml_dtypes.float8_e4m3fn),
                b=llama('b', dtype=BF16))
  job = jobs(planned(LINEAR, models))['lm_head.weight']
  assert (job.cast, job.dtype) == (BF16, BF16)


class FakeTokens:
  """Stands for tokens.Tokens of a union of vocabularies."""
  vocab, vocab_size = {'x': 0}, 13

  def align(self, name, tensors, base):
    assert base in (None, 'base')
    return {m: Header(f'{m}:{name}*', (13,) + t.shape[1:], t.dtype)
            for m, t in tensors.items()}


def test_vocabularies():
  models = dict(base=llama('base'), a=llama('a', rows=13), b=llama('b'))
  plan = planned(TIES, models)
  assert levels(plan, 'error')[0] == (
      'model.embed_tokens.weight has shape [13, 8] in a, [11, 8] in b; their '
      'vocabularies differ: set tokenizer_source to union or base.')
  plan = planned(TIES + 'tokenizer_source: union', models, tokens=FakeTokens())
  made = jobs(plan)
  assert made['lm_head.weight'].models[0].name == 'a:lm_head.weight*'
  assert made['model.norm.weight'].models[0].name == 'a:model.norm.weight'
  assert plan.config['vocab_size'] == 13


# Errors.

ONE = '{model: a, layer_range: [0, 1]}'
BAD = [
    ('', 'The file has no recipe.'),
    ('- 1', "the recipe must be a mapping, got [1]."),
    ('merge_method: [', 'Not YAML in line 1:'),
    ('merge_method: linear\nmerge_method: ties\n', "Line 2 of the recipe has "
     "key 'merge_method' twice."),
    ('a: !!python/object:os.system x', 'Line 1 of the recipe has a tag;'),
    ('a: ' + '[' * 30 + ']' * 30, 'Line 1 of the recipe is nested deeper than'),
    ('a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n' + ''.join(
        f'{k}: &{k} [{", ".join(["*" + p] * 10)}]\n' for p, k in
        zip('abcde', 'bcdef')), 'Line 1 of the recipe makes more than 10000'),
    ('a: ' + '1' * 41, 'Line 1 of the recipe has a number of more than 40'),
    ('[' * 25 + ']' * 25, 'Line 1 of the recipe is nested deeper than 24'),
    ('[' * 24 + ']' * 24, 'the recipe must be a mapping'),
    ('a: &a [*a]', 'Line 1 of the recipe contains itself'),
    ('1: 2', 'Line 1 of the recipe has a key that is not text'),
    ('a: .inf', 'Line 1 of the recipe has .inf; numbers must be finite'),
    ('x: "' + 'y' * 1_000_000 + '"', 'The recipe has more than 1000000 bytes.'),
    ('models: [{model: a}]', 'The recipe has no merge_method.'),
    ('merge_method: linear', 'A recipe has exactly one of models, slices, '
     'modules; this one has none.'),
    (LINEAR + f'slices: [{{sources: [{ONE}]}}]', 'A recipe has exactly one of '
     'models, slices, modules; this one has models and slices.'),
    (LINEAR.replace('merge_method', 'merge_metod'),
     "No key of the recipe 'merge_metod'. Did you mean 'merge_method'?"),
    (LINEAR.replace('linear', 'lineer'),
     "No merge_method 'lineer'. Did you mean 'linear'?"),
    (LINEAR.replace('linear', 'ram'), "merge_method 'ram' is not offered."),
    (LINEAR.replace('linear', 'fisher') + 'base_model: [1]',
     'base_model must be the path of a model, got [1].'),
    (LINEAR.replace('linear', 'nomodule:f') + 'base_model: a',
     "merge_method 'nomodule:f': No module named 'nomodule'."),
    (LINEAR.replace('{model: b}', '{modell: b}'),
     "No key of models[1] 'modell'. Did you mean 'model'?"),
    (LINEAR.replace('{model: b}', '{model: a}'), "models has 'a' twice."),
    (LINEAR.replace('{model: b}', '{model: a+b+c}'),
     "models[1].model must be path or path+adapter path, got 'a+b+c'."),
    (LINEAR.replace('{model: b}', '{model: {model: {path: b, revision: r}}}'),
     'models[1].model.model.revision: nothing is downloaded;'),
    (LINEAR.replace('weight: 1', 'weight: {valu: 1}'),
     "No key of parameters.weight[0] 'valu'. Did you mean 'value'?"),
    (LINEAR.replace('weight: 1', 'weight: [1, {value: 1}]'),
     'parameters.weight mixes filters and plain values'),
    (LINEAR.replace('weight: 1', 'weight: []'),
     'parameters.weight is an empty list'),
    (LINEAR.replace('weight: 1', 'weight: null'), 'parameters.weight must be a '
     'number, true, false, a list of them or {value, filter}, got None.'),
    (LINEAR + 'dtype: float8', "No dtype 'float8'. Did you mean 'float32'?"),
    (LINEAR + 'chat_template: chatml', 'chat_template must be auto or the text '
     "of a Jinja template, got 'chatml'."),
    (LINEAR + 'tokenizer: {source: base}\ntokenizer_source: union',
     'A recipe has tokenizer or tokenizer_source, not both.'),
    (LINEAR + 'tokenizer: {tokens: {x: {source: {kind: model_token, model: a}}}'
     '}', "tokenizer.tokens['x'].source must have token_id or token"),
    (LINEAR + 'tokenizer: {pad_to_multiple_of: 0}',
     'tokenizer.pad_to_multiple_of must be a whole number >= 1, got 0.'),
    (TIES.replace('base_model: base', ''), 'models: ties needs a base_model.'),
    (TIES.replace('ties', 'slerp'), 'models: slerp takes exactly 2 inputs, the '
     'base included, got 3.'),
    (TIES.replace('ties', 'model_stock').replace(', {model: b}', ''),
     'models: model_stock takes at least 3 inputs, the base included, got 2.'),
    (LINEAR.replace('linear', 'nuslerp').replace(', {model: b}', ''),
     'models: nuslerp takes exactly 2 models beside the base, got 1.'),
    (LINEAR.replace('linear', 'passthrough').replace(', {model: b}', '')
     + 'base_model: base', 'models: passthrough takes exactly 1 inputs, the '
     'base included, got 2; base_model is an input here.'),
    (STACK.replace('[0, 3]', '[3, 0]'), 'slices[0].sources[0].layer_range must '
     'have 0 <= first < end, got [3, 0].'),
    (STACK.replace('[0, 3]', '3'), 'slices[0].sources[0].layer_range must be '
     '[first, end], two whole numbers, got 3.'),
    (f'merge_method: linear\nslices: [{{sources: [{ONE}, {{model: b, '
     'layer_range: [0, 2]}]}]', 'slices[0]: sources take [[0, 1], [0, 2]]; all '
     'must take the same number of layers.'),
    (f'merge_method: slerp\nbase_model: c\nslices: [{{sources: [{ONE}]}}]',
     "slices[0]: base_model 'c' must be one of the sources ['a']."),
    (f'merge_method: passthrough\nslices: [{{residual_weight: 1, sources: '
     f'[{ONE}]}}]', 'slices[0]: residual_weight has no effect in mergekit'),
    ('merge_method: linear\nmodules: {text: {models: [{model: a}]}}',
     "modules: 'text' is not offered"),
    (f'name: x\n{LINEAR}\n---\nname: x\n{LINEAR}',
     "name 'x' is that of 2 recipes."),
    (f'{LINEAR}\n---\n{LINEAR}', '2 recipes have no name;'),
    (f'name: ../x\n{LINEAR}', "name '../x' must be letters"),
    (f'name: a\n{LINEAR}', 'stages use one another in a circle: a -> a.'),
    ('name: a\n' + LINEAR.replace('model: a', 'model: c')
     + f'\n---\nname: b\n{LINEAR}',
     'stages use one another in a circle: a -> b -> a.'),
    (f'name: x\n{LINEAR}\n---\nname: y\n{LINEAR}',
     "stages 'x', 'y' are used by no other; one of them can be the output."),
    (f'{LINEAR}\n---\nmerge_method: x', "document 2: A recipe has exactly one"),
]


@pytest.mark.parametrize('text,message', BAD, ids=range(len(BAD)))
def test_bad_recipes(text, message):
  with pytest.raises(core.UserError) as e:
    stages.read_text(text)
  assert str(e.value).startswith(message), str(e.value)
  assert '\n' not in str(e.value) and len(str(e.value)) < 700


TWO = dict(a=llama('a'), b=llama('b'))
IMPOSSIBLE = [
    (LINEAR.replace('weight: 1', 'normalize: true'), TWO,
     "a: parameter 'weight' must be given. (15 of the kind)"),
    (LINEAR.replace('weight: 1', 'weight: {value: 1, filter: lm}'), TWO,
     "a: parameter 'weight' must be given for 'model.embed_tokens.weight', no "
     'filter fits.'),
    (TIES.replace('density: 0.5', 'density: 0.5, elect: sun'), None,
     "model.embed_tokens.weight: ties: No elect 'sun'. Did you mean 'sum'?"),
    (TIES.replace('ties', 'svd_truncate').replace('density: 0.5', 'rank: -1'),
     None, 'model.embed_tokens.weight: '),
    (TIES.replace('ties', 'recipe_test:wrong').replace(', density: 0.5', ''),
     None, 'model.embed_tokens.weight: wrong must return one array of shape '
     '[11, 8].'),
    (LINEAR + 'base_model: base', None, None),
    (LINEAR.replace('weight: 1', 'weight: 0'), TWO,
     'linear: weights [0.0, 0.0] sum to 0 and cannot be normalized'),
    (LINEAR.replace('weight: 1', 'weight: heavy'), TWO,
     "a: parameters.weight must be a finite number, got 'heavy'."),
    (LINEAR.replace('weight: 1', 'weight: nan'), TWO,
     "a: parameters.weight must be a finite number, got 'nan'."),
    (TIES.replace('0.5', '1.5'), None,
     'a: parameters.density must be in [0, 1], got 1.5.'),
    (TIES + '  # \n', dict(base=llama('base'), a=llama('a', layers=5),
                           b=llama('b')),
     'model.layers.*: the models have different numbers of layers, 4 in base, '
     '5 in a, 4 in b; take as many of each with slices.'),
    (LINEAR, dict(a=llama('a'), b=llama('b', quantization_config=dict(bits=4))),
     'b: is quantized'),
    (LINEAR, dict(a=llama('a'), b=source({}, 'b')),
     "b lacks 'model.embed_tokens.weight', which a has."),
    (LINEAR, dict(a=source({'x.weight': (2, 3)}, 'a'),
                  b=source({'x.weight': (3, 2)}, 'b')),
     'x.weight has shape [2, 3] in a, [3, 2] in b.'),
    (LINEAR, {m: source({'x.weight': (2, 3)}, m, np.int8) for m in 'ab'},
     'x.weight has dtype int8: a quantized model'),
    (LINEAR, dict(a=source({'n': ()}, 'a', np.int64),
                  b=source({'n': ()}, 'b', np.int32)),
     'n is int64[] in one input and int32[] in b'),
    (LINEAR, {m: source({}, m) for m in 'ab'}, 'The inputs have no tensors.'),
    (STACK.replace('[1, 4]', f'[1, {10**30}]'), TWO,
     f'slices[1]: layer_range [1, {10**30}] of b, which has 4 layers.'),
    (STACK.replace('[1, 4]', '[1, 5]'), TWO,
     'slices[1]: layer_range [1, 5] of b, which has 4 layers.'),
    (STACK, {m: source({f'{s}.{n}.w': (2,) for s in ('enc', 'dec')
                        for n in range(4)}, m) for m in 'ab'},
     'a: slices are for models with one stack of layers, this one has enc.*, '
     'dec.*; merge whole models.'),
    (TIES.replace('ties', 'della').replace('0.5', '0.9'), None,
     'epsilon 0.15 at density 0.9: density - epsilon and density + epsilon'),
    (TIES.replace('ties', 'della').replace('0.5', '0.1'), None,
     'epsilon 0.15 at density 0.1: density - epsilon and density + epsilon'),
    (LINEAR.replace('linear', 'karcher').replace('weight: 1', 'max_iter: 2.5'),
     TWO, 'parameters.max_iter must be a whole number, got 2.5.'),
    (TIES.replace('density: 0.5', 'normalize: 2'), None,
     'parameters.normalize must be true or false, got 2.'),
]


@pytest.mark.parametrize('text,models,message', IMPOSSIBLE,
                         ids=range(len(IMPOSSIBLE)))
def test_impossible_merges(text, models, message):
  """--check and a run raise the same error, and neither reads a weight."""
  plan = planned(text, models)
  if message is None:  # a base that is not listed is an input of linear
    assert len(jobs(plan)['lm_head.weight'].models) == 3
    return
  report = check.check_plan(plan)
  assert report.fails
  assert report.text().startswith('error: ' + message), report.text()
  with pytest.raises(core.UserError) as e:
    problems.refuse(plan.problems)
  assert str(e.value).startswith(message)


# Files of several recipes.


def test_stages_in_order(tmp_path, monkeypatch):
  text = f"""
merge_method: slerp
base_model: first
models: [{{model: second+lora}}]
parameters: {{t: 0.5}}
tokenizer_source: first
---
name: second
merge_method: linear
models: [{{model: first}}, {{model: b}}]
parameters: {{weight: 1}}
---
name: first
{LINEAR}
"""
  path = tmp_path / 'r.yml'
  path.write_text(text)
  found = stages.read_file(path)
  assert [r.name for r in found] == ['first', 'second', None]
  last = stages.replace(found[-1], dict(first='/x/1', second='/x/2'))
  assert last.references == ('/x/1', '/x/2+lora')
  assert last.tokenizer.source == '/x/1' and last.base_model == '/x/1'
  (tmp_path / 'b').mkdir()
  with pytest.raises(core.UserError, match='^a: no such file or directory. '
                     'Nothing is downloaded'):
    stages.check_paths(found)
  (tmp_path / 'a').mkdir()
  monkeypatch.chdir(tmp_path)
  wrong = stages.read_text(text.replace('model: first}', 'model: frst}')
                           .replace('_source: first', '_source: base'))
  with pytest.raises(core.UserError, match="Did you mean stage 'first'"):
    stages.check_paths(wrong)
  with pytest.raises(core.UserError, match='no such recipe file'):
    stages.read_file(tmp_path / 'none.yml')
  path.write_bytes(b'\xff\xfe\xff')
  with pytest.raises(core.UserError, match='is not UTF-8'):
    stages.read_file(path)


def test_problems_are_counted_by_kind():
  found = problems.Problems()
  for level, text in (('note', 'h.1.w is so'), ('error', 'h.7.w is so'),
                      ('warning', 'h.2 is so'), ('error', 'h.3.w is so'),
                      ('error', 'h.4.v is so')):
    found.add(level, text)
  assert found.list() == (
      ('error', 'h.7.w is so', 2), ('error', 'h.4.v is so', 1),
      ('warning', 'h.2 is so', 1), ('note', 'h.1.w is so', 1))


def test_aliases_of_reasonable_size():
  recipe = read("""
merge_method: linear
models:
  - {model: a, parameters: &p {weight: 0.5}}
  - {model: b, parameters: {<<: *p, normalize: true}}
""")
  assert [s.parameters['weight'][0].value for s in recipe.slices[0].inputs
          ] == [0.5, 0.5]


# The report.


def test_report_of_what_has_no_effect():
  plan = planned("""
merge_method: ties
base_model: base
models:
  - model: base
    parameters: {density: 0.1}
  - model: a
    parameters: {normalize: false, weight: 1}
  - model: b
    parameters: {weight: [{filter: mpl, value: 3}, {value: -1}], densty: 0.5}
parameters: {int8_mask: true, density: 0.9}
""")
  problems.refuse(plan.problems)
  text = check.check_plan(plan).text()
  for line in (
      'note: models[0].parameters.density has no effect: every model overrides '
      'it, or it is of the base only.',
      'warning: models[1].parameters.normalize is not read: normalize is one '
      'for all inputs; put it under the parameters of the recipe.',
      'warning: models[2].parameters.weight: filter \'mpl\' applies to no '
      'tensor.',
      'note: parameters.int8_mask has no effect with ties.',
      'warning: weights [1.0, -1.0] sum to 0 and are not normalized. (15 of '
      'the kind)'):
    assert line in text.splitlines(), text
  assert "Did you mean 'density'?" in text


def test_report_of_costs():
  plan = planned(LINEAR)
  report = check.check_plan(plan)
  assert report.treatments == dict(merged=15, copied=0, renamed=0)
  assert report.operators == dict(linear=15) and not report.fails
  assert len(report.text().splitlines()) == 3


@pytest.mark.parametrize('text,inputs_,passes,arrays', [
    # Models read, passes over them; arrays of a worker, of the largest leaf.
    (LINEAR, 2, 1, 2 * 3 + 1),  # zeros as base are an array, but not read
    (TIES, 3, 3, 2 * 3 + 1),  # a sample, the threshold, the merge
    (TIES.replace('ties', 'model_stock'), 3, 2, 2 * 3 + 1),
    (TIES.replace('ties', 'della_linear'), 3, 1, 3 + 1),  # whole leaves
    (LINEAR.replace(', {model: b}', '').replace('linear', 'passthrough'), 1, 1,
     1)])
def test_costs(text, inputs_, passes, arrays):
  tensors = llama().tensors.values()
  size, largest = sum(t.nbytes for t in tensors), 8 * 12 * 4
  plan = planned(text)
  for threads in (1, 3):
    report = check.check_plan(plan, threads=threads)
    assert report.read_bytes == inputs_ * passes * size
    assert report.write_bytes == size
    assert report.memory_bytes == threads * arrays * largest
