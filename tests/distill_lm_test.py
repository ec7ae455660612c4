"""Training decoders from teachers: tokens in, the same run out."""
import json
import shutil

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from kt_jax import checkpoint
from kt_jax import core
from kt_jax import data
from kt_jax import models
from kt_jax import train
from kt_jax.train import sampling as samplings

CHARACTERS = data.tokenizer('characters')
TASK = train.LossTerm('cross_entropy')


@pytest.fixture(scope='module', autouse=True)
def cache(tmp_path_factory):
  """One pool for all: its models are trained once."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('KT_JAX_CACHE', str(tmp_path_factory.mktemp('cache')))
    yield


def task(name, **kw):
  return data.Domain(f'task:{name}', 48, 8, 8, kw=kw)


def decoder(width, **kw):
  return dict(name='decoder', kw=dict(depth=1, width=width, heads=2, **kw))


def small(**kw):
  return train.Training(**dict(
      data=data.Text(length=16, prompt=8, domains=dict(add=task('add'))),
      model=train.Model(**decoder(16, hidden=24)), batch=train.Batch(8),
      optimizer=train.Optimizer(
          'adamw', 3e-3, train.Schedule('cosine_decay_schedule'), clip=1.0,
          kw=dict(weight_decay=0.01)),
      loop=train.Loop(steps=4, log_every=2, save_every=2, keep=4),
      evaluate=train.Evaluation(batch_size=8),
      cache=train.Cache(dtype='float32'), mesh=train.Mesh(1)) | kw)


def student(*terms, **changes):
  """A run whose teacher is in the pool."""
  spec = small(
      terms={f'term{n}': term for n, term in enumerate(terms)},
      teachers=dict(teacher=train.Teacher('teacher')),
      pool=dict(teacher=train.Pretrained(dict(model=decoder(24)))),
      pretrain=small(terms=dict(task=TASK), loop=train.Loop(4, 2)))
  return core.spec.change(spec, changes)


def kd(**kw):
  return train.LossTerm('kd', teacher='teacher', kw=dict(temperature=1.0), **kw)


def params(workdir, step=None):
  return checkpoint.read(workdir, step).model['params']


def same(a, b, **tolerance):
  assert a.keys() == b.keys()
  for name in a:
    np.testing.assert_allclose(a[name], b[name], err_msg=name, **(
        tolerance or dict(rtol=0, atol=0)))


def rows_of(workdir, split):
  return [r for r in train.read_metrics(workdir / 'metrics.jsonl')
          if r['split'] == split]


def test_resume_is_exact(tmp_path):
  """TAID on the student's own responses: state and draws in every step."""
  spec = student(
      train.LossTerm('taid', teacher='teacher', module='taid'),
      modules=dict(taid=train.Module('TaidSchedule',
                                     dict(start=0.2, alpha=0.5))),
      sampling=dict(source='mixed'))
  whole, cut = tmp_path / 'whole', tmp_path / 'cut'
  train.run(spec, whole)
  shutil.copytree(whole, cut)
  shutil.rmtree(cut / 'checkpoints' / '4')
  card = json.loads((cut / 'card.json').read_text())
  (cut / 'card.json').write_text(json.dumps(card | dict(status='running')))
  train.run(spec, cut)
  same(params(whole), params(cut))
  a, b = (checkpoint.read(w).meta for w in (whole, cut))
  assert a['training'] == b['training']  # optimizer and TAID's state, digested
  assert all('response_length' in r for r in rows_of(whole, 'train'))


# One step.


def _session(spec, change=lambda teacher: teacher):
  info = data.abstract_text(spec.data)
  teacher = models.init(models.builder(
      'decoder', classes=info.classes, input_shape=info.input_shape, depth=1,
      width=24, heads=2))
  trained = change(train.Trained(*teacher, info, {}, 'x', 'teacher'))
  return train.make_session(spec, info, {'teacher': trained},
                            stop=CHARACTERS.eos, pad=CHARACTERS.pad)


def _batch(spec):
  arrays = data.load_text(spec.data).train
  stream = data.stream(arrays, batch_size=spec.batch.size, seed=0, threads=0)
  return {k: v for k, v in next(stream).items() if k != 'ids'}


def _plain(**changes):
  """Rows count by their index, from 0 on."""
  return student(
      train.LossTerm('cross_entropy', 0.5), kd(
          weight=0.05, example_weight='index'),
      optimizer=train.Optimizer('sgd', 1.0), **changes)


@pytest.fixture(scope='module')
def one_step():
  """The student after one step of a plain run, and its batch."""
  spec = _plain()
  session, batch = _session(spec), _batch(spec)
  state, metrics = session.step(session.init(), batch, session.inputs)
  return session, batch, state.params['student'], metrics


def assert_same_step(one_step, session, batch):
  _, _, want, metrics = one_step
  state, got = session.step(session.init(), batch, session.inputs)
  same(want, state.params['student'], rtol=1e-4, atol=2e-6)
  for name in ('loss', 'term0', 'term1'):
    np.testing.assert_allclose(got[name], metrics[name], rtol=5e-5)


@pytest.mark.parametrize('settings', [dict(accumulate=4), dict(chunk=24)],
                         ids=str)
def test_micro_batches_and_chunks_change_nothing(one_step, settings):
  assert_same_step(one_step, _session(_plain(train=settings)), one_step[1])


def numbered_otherwise(folder, merges=()):
  """The tokenizer of characters with its ids in reverse order, and merges."""
  tk = pytest.importorskip('tokenizers')
  vocab = {p.decode(): i for i, p in enumerate(CHARACTERS.pieces[:2:-1])}
  for a, b in merges:
    vocab[a + b] = len(vocab)
  raw = tk.Tokenizer(tk.models.BPE(vocab, list(merges)))
  raw.decoder = tk.decoders.Fuse()
  raw.add_special_tokens(['<pad>', '<bos>', '<eos>'])
  folder.mkdir()
  raw.save(str(folder / 'tokenizer.json'))
  (folder / 'tokenizer_config.json').write_text(json.dumps(
      {f'{n}_token': f'<{n}>' for n in ('pad', 'bos', 'eos')}))
  return data.tokenizer(str(folder))


def test_teacher_with_its_own_numbers_is_the_same_teacher(one_step, tmp_path):
  """Places, ids and rows of embeddings are permuted: no difference is left."""
  theirs = numbered_otherwise(tmp_path / 'other')
  assert theirs.size == CHARACTERS.size
  ids = data.align_vocabularies(CHARACTERS, theirs)
  spec = _plain(teachers=dict(teacher=dict(tokenizer=theirs.name)))
  rows = data.retokenize(data.load_text(spec.data).train, CHARACTERS, theirs,
                         16)
  assert rows.tokens.shape[1] < 16  # without the padding of prompts
  batch = one_step[1]
  batch = batch | {f'retokenized/teacher/{n}': v[batch['index']]
                   for n, v in rows._asdict().items()}
  def permuted(teacher):
    table = teacher.params['embed/embedding']
    return teacher._replace(params=teacher.params | {
        'embed/embedding': jnp.zeros_like(table).at[ids].set(table)})
  assert_same_step(one_step, _session(spec, permuted), batch)


def test_padding_changes_nothing_and_no_target_costs_nothing(one_step):
  session, batch, _, _ = one_step
  # More padding on the right, in a longer row of a longer context.
  wide = {k: np.pad(v, [(0, 0), (0, 4)]) if v.ndim == 2 else v
          for k, v in batch.items()}
  assert_same_step(one_step, _session(_plain(data=dict(length=20))), wide)
  # A batch without targets.
  nothing = batch | dict(targets=np.zeros_like(batch['targets']))
  before = jax.device_get(session.init().params)
  state, metrics = session.step(session.init(), nothing, session.inputs)
  assert metrics['loss'] == 0 and metrics['grad_norm'] == 0
  same(before['student'], state.params['student'])


def test_align_shifts_once():
  batch = dict(tokens=jnp.array([[5, 6, 7, 8, 9, 0]]),
               segments=jnp.array([[1, 1, 1, 2, 2, 0]]),
               targets=jnp.array([[False, True, True, False, True, False]]))
  arrays = train.align(batch)
  np.testing.assert_array_equal(arrays['labels'], [[6, 7, 8, 9, 0, 0]])
  np.testing.assert_array_equal(
      arrays['where'], [[True, True, False, True, False, False]])


def test_prompted_teacher():
  """The prompt learns, the teacher does not, and the student learns of it."""
  reverse = lambda **kw: train.LossTerm('reverse_kl', **kw)
  spec = student(
      reverse(teacher='prompted', updates=('student',)),
      reverse(student='prompted', teacher='student', updates=('prompt',)),
      reverse(student='prompted', teacher='teacher', updates=('prompt',)),
      teachers=dict(prompted=train.Teacher(
          kind='prompted', of='teacher', module='prompt')),
      modules=dict(prompt=train.Module('SoftPrompt', dict(count=3))),
      sampling=dict(source='student'))
  train.check(spec)
  session = _session(spec)
  state = session.init()
  before = jax.device_get(state.params)
  teacher = jax.device_get(session.inputs.constants)
  state, _ = session.step(state, _batch(spec), session.inputs)
  assert before['prompt']['embedding'].shape == (3, 24)
  for network, name in (('prompt', 'embedding'),
                        ('student', 'embed/embedding')):
    assert (before[network][name] != state.params[network][name]).any()
  jax.tree.map(np.testing.assert_array_equal, teacher, jax.device_get(
      session.inputs.constants))


# Sampling.


def _sampling(**kw):
  return train.Sampling('speculative', **kw)


def test_speculative_limits():
  key = jax.random.key(3)
  z = jax.random.normal(jax.random.key(1), (2, 400, 7))
  draw = lambda **kw: samplings._speculative(_sampling(**kw))(tuple(z), key)
  token, info = draw(accept=7)
  np.testing.assert_array_equal(token, models.sample_token(
      z[0], jax.random.split(key)[0]))
  assert info['accepted'].all()
  token, info = draw(accept=1, teacher_temperature=0.0)
  np.testing.assert_array_equal(token, z[1].argmax(-1))
  token, info = draw(accept=3)
  rank = (z[1] > np.take_along_axis(z[1], token[:, None], 1)).sum(1)
  assert (rank[info['accepted']] < 3).all() and 0 < info['accepted'].mean() < 1


def test_blend_gives_its_own_log_probabilities():
  z = jnp.zeros((2, 3000, 4)) + jnp.array([[[0., 1, 2, 3]], [[2., 0, 0, 0]]])
  token, info = samplings._blend(_sampling(share=0.2))(
      tuple(z), jax.random.key(0))
  mixed = 0.8 * jax.nn.softmax(z[0, 0]) + 0.2 * jax.nn.softmax(z[1, 0])
  np.testing.assert_allclose(np.bincount(token, minlength=4) / 3000, mixed,
                             atol=0.03)
  np.testing.assert_allclose(np.exp(info['sample_log_probs']), mixed[token],
                             rtol=1e-5)


@pytest.mark.parametrize('source,loss,metric', [
    ('student', 'reverse_kl', 'response_length'),
    ('speculative', 'kd', 'accepted'),
    ('blend', 'minillm', 'response_length')])
def test_runs_on_sampled_responses(one_step, tmp_path, source, loss, metric):
  """Terms with batch 'data' read the responses of the data all the same."""
  of_data = lambda loss: train.LossTerm(loss, 0.0, teacher='teacher',
                                        batch='data')
  spec = student(
      train.LossTerm(loss, teacher='teacher'), of_data('cross_entropy'),
      of_data(loss), sampling=dict(source=source, accept=3, share=0.3),
      loop=dict(steps=1, log_every=1))
  assert np.isfinite(train.run(spec, tmp_path)['nll'])
  row, = rows_of(tmp_path, 'train')
  assert 0 < row[metric] <= dict(accepted=1).get(metric, 8)
  assert row['term1'] == pytest.approx(float(one_step[3]['term0']), rel=1e-5)
  assert row['term2'] != pytest.approx(row['term0'], rel=1e-3)


# Runs.


def test_teacher_of_another_vocabulary(tmp_path):
  """Two digits in one token: what both have is compared, or sorted masses."""
  digits = '0123456789'
  theirs = numbered_otherwise(tmp_path / 'other', [
      (a, b) for a in digits for b in digits])
  for mapping, loss in (('strings', 'kd'), ('', 'uld')):
    spec = student(
        TASK, train.LossTerm(loss, teacher='teacher'),
        pool=dict(teacher=dict(changes=dict(
            data=dict(tokenizer=theirs.name)))),
        teachers=dict(teacher=dict(tokenizer=theirs.name, mapping=mapping)))
    metrics = train.run(spec, tmp_path / loss)
    assert np.isfinite(metrics['nll'])
    assert rows_of(tmp_path / loss, 'train')[0]['term1'] > 1e-3


def test_cache_is_the_teacher(tmp_path):
  folder = tmp_path / 'kept'
  live = student(kd())
  cached = student(kd(), cache=dict(views=1, top_k=98, folder=str(folder)))
  for name, spec in (('live', live), ('cached', cached)):
    train.run(spec, tmp_path / name)
  same(params(tmp_path / 'live'), params(tmp_path / 'cached'), rtol=2e-3,
       atol=2e-5)
  file, = folder.glob('teacher-*/*.array_record')
  whole = file.read_bytes()
  file.write_bytes(whole[:-4] + b'spam')
  train.run(cached, tmp_path / 'again')  # damaged, so written again
  assert file.read_bytes() == whole
  same(params(tmp_path / 'cached'), params(tmp_path / 'again'))
  # Without most of the logits it is not quite the teacher.
  train.run(student(kd(), cache=dict(views=1, top_k=5, folder=str(folder))),
            tmp_path / 'few')
  loss = lambda name: rows_of(tmp_path / name, 'train')[0]['term0']
  assert loss('cached') == pytest.approx(loss('live'), rel=1e-5)
  assert loss('few') != pytest.approx(loss('live'), rel=1e-2)


def test_filled_logits_keep_the_mass_of_the_tail():
  z = 2 * jax.random.normal(jax.random.key(0), (5, 9)) + 3
  top, classes = jax.lax.top_k(z, 3)
  rest = jax.nn.logsumexp(jnp.sort(z)[:, :6], -1)
  filled = data.fill_logits(top, classes, rest, 9)
  np.testing.assert_allclose(jax.nn.logsumexp(filled, -1),
                             jax.nn.logsumexp(z, -1), rtol=1e-6)
  np.testing.assert_array_equal(
      jnp.take_along_axis(filled, classes, -1), top)


def test_lora_moves_nothing_else(tmp_path):
  spec = student(
      kd(), trainable='/lora_', init_from='base',
      pool=dict(base=train.Pretrained(by_seed=True)),
      model=decoder(16, hidden=24, lora_rank=2))
  train.run(spec, tmp_path / 'run')
  step2, step4 = (params(tmp_path / 'run', s) for s in (2, 4))
  moved = {n for n in step2 if (step2[n] != step4[n]).any()}
  assert moved and all('/lora_' in n for n in moved)


def test_checkpoints_are_exported_and_merged(tmp_path):
  """kt-merge takes runs and what they export; both means are the same."""
  from kt_jax.cli import main as kt_merge
  for seed in (0, 1):
    train.run(small(seed=seed, export=True, terms=dict(task=TASK),
                    loop=train.Loop(steps=2)), tmp_path / str(seed))
  outputs = []
  for name in ('{}', '{}/hf'):
    recipe, out = tmp_path / 'recipe.yml', tmp_path / f'out{len(outputs)}'
    recipe.write_text(json.dumps(dict(
        merge_method='linear', dtype='float32', models=[
            dict(model=str(tmp_path / name.format(seed)),
                 parameters=dict(weight=0.5)) for seed in (0, 1)])))
    assert kt_merge.main(['--quiet', str(recipe), str(out)]) == 0
    outputs.append(out)
  merged = models.from_pretrained(outputs[1])
  want = {n: (params(tmp_path / '0')[n] + params(tmp_path / '1')[n]) / 2
          for n in params(tmp_path / '0')}
  same(want, models.split(merged)[1], rtol=1e-6, atol=1e-7)
  raw = checkpoint.open_safetensors(outputs[0])
  same(want, {n: raw[f'params/{n}'] for n in want}, rtol=1e-6,
       atol=1e-7)
  tokens = data.load_text(small().data).test.tokens
  assert merged(tokens).shape == (*tokens.shape, 99)


def test_domains_follow_the_gap(tmp_path):
  domains = dict(add=task('add'), copy=task('copy', longest=3,
                                            letters='abcdefgh'))
  both = dict(length=16, prompt=10, domains=domains)
  spec = student(kd(), data=both, pretrain=dict(data=both),
                 mixture=dict(every=2, smoothing=0.5, rows=8))
  train.run(spec, tmp_path / 'run')
  rows = rows_of(tmp_path / 'run', 'mixture')
  assert [r['step'] for r in rows] == [0, 2]
  for row in rows:
    assert row['add'] + row['copy'] == pytest.approx(1)
  assert min(rows[1]['add'], rows[1]['copy']) >= 0.25  # smoothing / domains


@pytest.mark.parametrize('message,changes', [
    ('kind', dict(teachers=dict(x=dict(kind='frosen')))),
    ('sampling.source', dict(sampling=dict(source='studnet'))),
    ('data.prompt must be', dict(sampling=dict(source='student'),
                                 data=dict(prompt=0))),
    ('cache.top_k must be', dict(cache=dict(views=1, top_k=99))),
    ('views of text', dict(cache=dict(views=2))),
    ('with sampling.source', dict(cache=dict(views=1, top_k=9),
                                  sampling=dict(source='student'))),
    ('mixture.every moves', dict(mixture=dict(every=2))),
    ('evaluate.responses needs', dict(evaluate=dict(responses=2),
                                      data=dict(prompt=0))),
    ('set tokenizer=', dict(pool=dict(teacher=dict(changes=dict(
        data=dict(tokenizer='{tokenizer}')))))),
    ('it must be frozen', dict(train=dict(chunk=8), teachers=dict(teacher=dict(
        tokenizer='characters')))),
    ('mapping', dict(teachers=dict(teacher=dict(
        tokenizer='characters', mapping='bytes')))),
    ('context of 16', dict(data=dict(length=18))),
    ('network .config.terms.term0.teacher', dict(terms=dict(term0=dict(
        teacher='techer')))),
    ('batch.mixup is for images', dict(batch=dict(mixup=0.5))),
], ids=lambda x: x if isinstance(x, str) else '')
def test_refusals(message, changes, tmp_path):
  text = json.dumps(changes)
  if '{tokenizer}' in text:
    tokenizers = pytest.importorskip('tokenizers')
    tokenizers.Tokenizer(tokenizers.models.WordLevel(
        {'a': 0, '[UNK]': 1}, unk_token='[UNK]')).save(
            str(tmp_path / 'tokenizer.json'))
    changes = json.loads(text.replace('{tokenizer}', str(tmp_path)))
  with pytest.raises(core.UserError, match=message):
    train.check(student(kd(), **changes))
