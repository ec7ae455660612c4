"""Protocols `pretrain_lm` and `distill_lm`: tokens in, the same run out."""
import json
import shutil

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from configs import common
from configs import common_language as language
from experiments import distill_lm
from experiments import pretrain_lm
from kt_jax import checkpoint
from kt_jax import core
from kt_jax import data
from kt_jax import models
from kt_jax import train
from kt_jax.train import sampling as samplings

ROW = dict(length=16, prompt=8)


@pytest.fixture(scope='module', autouse=True)
def cache(tmp_path_factory):
  """One pool for all: members are trained once."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('KT_JAX_CACHE', str(tmp_path_factory.mktemp('cache')))
    yield


def small(c):
  c.data = language.text(**ROW)
  c.data.domains.add = language.domain('task:add', 48, 8, 8)
  c.model.kw.update(depth=1, width=16, heads=2, hidden=24)
  c.batch.size = 8
  c.loop.update(steps=4, log_every=2, save_every=2, keep=4)
  c.evaluate.batch_size = 8
  c.mesh.data = 1
  return c


def student(*terms, **changes):
  """A config of `distill_lm` whose teacher is a member."""
  c = small(language.distill_lm())
  small(c.pretrain)
  c.pretrain.loop.save_every = 0
  c.members.teacher = language.member(
      model=dict(name='decoder', kw=dict(depth=1, width=24, heads=2)))
  c.teachers.teacher = language.token_teacher('teacher')
  c.terms = {}
  for n, term in enumerate(terms):
    c.terms[f'term{n}'] = term
  with c.unlocked():
    c.update(changes)
  return c


def params(workdir, step=None):
  return checkpoint.read(workdir, step).model['params']


def same(a, b, **tolerance):
  for name in a:
    np.testing.assert_allclose(a[name], b[name], err_msg=name, **(
        tolerance or dict(rtol=0, atol=0)))


def kd(**kw):
  return language.token_term('kd', teacher='teacher', temperature=1.0, **kw)


def taught():
  """TAID on the student's own responses: state and draws in every step."""
  c = student(language.token_term('taid', teacher='teacher', module='taid'))
  c.modules.taid = common.module('TaidSchedule', start=0.2, alpha=0.5)
  c.sampling.source = 'mixed'
  return c


def test_resume_is_exact(tmp_path):
  c, whole, cut = taught(), tmp_path / 'whole', tmp_path / 'cut'
  distill_lm.run(c, whole)
  shutil.copytree(whole, cut)
  shutil.rmtree(cut / 'checkpoints' / '4')
  card = json.loads((cut / 'card.json').read_text())
  (cut / 'card.json').write_text(json.dumps(card | dict(status='running')))
  distill_lm.run(c, cut)
  same(params(whole), params(cut))
  a, b = (checkpoint.read(w).meta for w in (whole, cut))
  assert a['training'] == b['training']  # optimiser and TAID's state, digested
  rows = train.read_metrics(whole / 'metrics.jsonl')
  assert any('response_length' in r for r in rows)


def _session(c, change=lambda teacher: teacher):
  info, tokenizer = pretrain_lm.abstract(c)
  teacher = models.init(models.builder(
      'decoder', classes=info.classes, input_shape=info.input_shape, depth=1,
      width=24, heads=2))
  trained = change(train.Trained(*teacher, info, {}, 'x', 'teacher'))
  return train.make_language_session(c, info, {'teacher': trained},
                                     stop=tokenizer.eos, pad=tokenizer.pad)[0]


def _batch(c):
  arrays = data.load_text(c.data).train
  stream = data.stream(arrays, batch_size=c.batch.size, seed=0, threads=0)
  return {k: v for k, v in next(stream).items() if k != 'ids'}


def _plain(**changes):
  c = student(language.token_term('cross_entropy', 0.5), kd(weight=0.5),
              **changes)
  c.optimizer = common.optimizer('sgd', 1.0)
  return c


@pytest.fixture(scope='module')
def one_step():
  """Parameters after one step of a plain run, and its batch."""
  c = _plain()
  session, batch = _session(c), _batch(c)
  state, metrics = session.step(session.init(), batch, session.settings)
  return c, batch, state.params, metrics


def test_micro_batches_and_chunks_change_nothing(one_step):
  c, batch, want, metrics = one_step
  for changes in (dict(train=dict(accumulate=4, compute_dtype='float32',
                                  ema=0.0)), dict(chunk=24)):
    session = _session(_plain(**changes))
    state, found = session.step(session.init(), batch, session.settings)
    same(want, state.params, rtol=1e-4, atol=2e-6)
    np.testing.assert_allclose(found['loss'], metrics['loss'], rtol=1e-5)


def numbered_otherwise(folder, merges=()):
  """The tokenizer of characters with its ids turned round, and merges."""
  tk = pytest.importorskip('tokenizers')
  plain = data.tokenizer('characters')
  vocab = {p.decode(): i for i, p in enumerate(plain.pieces[:2:-1])}
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
  """Places, ids and rows of embeddings turned round: nothing is left of it."""
  c, batch, want, metrics = one_step
  ours = data.tokenizer('characters')
  theirs = numbered_otherwise(tmp_path / 'other')
  assert theirs.size == ours.size
  ids = data.align_vocabularies(ours, theirs)
  c = _plain()
  c.teachers.teacher.tokenizer = str(tmp_path / 'other')
  rows = data.retokenize(data.load_text(c.data).train, ours, theirs, 16)
  assert rows.tokens.shape[1] < 16  # without what padded the prompts
  batch = batch | {f'retokenized/teacher/{n}': v[batch['index']]
                   for n, v in rows._asdict().items()}
  def turned(teacher):
    table = teacher.params['embed/embedding']
    return teacher._replace(params=teacher.params | {
        'embed/embedding': jnp.zeros_like(table).at[ids].set(table)})
  session = _session(c, turned)
  state, found = session.step(session.init(), batch, session.settings)
  same(want, state.params, rtol=1e-4, atol=2e-6)
  np.testing.assert_allclose(found['loss'], metrics['loss'], rtol=1e-5)


def test_teacher_of_another_vocabulary(tmp_path):
  """Two digits in one token: what both have is compared, or sorted masses."""
  digits = '0123456789'
  theirs = numbered_otherwise(tmp_path / 'other', [
      (a, b) for a in digits for b in digits])
  for mapping, loss in (('strings', 'kd'), ('', 'uld')):
    c = student(language.token_term('cross_entropy'),
                language.token_term(loss, teacher='teacher'))
    c.members.teacher.changes.data = dict(tokenizer=theirs.name)
    c.teachers.teacher.update(tokenizer=theirs.name, mapping=mapping)
    metrics = distill_lm.run(c, tmp_path / loss)
    assert np.isfinite(metrics['nll'])
    rows = train.read_metrics(tmp_path / loss / 'metrics.jsonl')
    assert rows[0]['term1'] > 1e-3


def test_padding_changes_nothing_and_no_target_costs_nothing(one_step):
  c, batch, want, metrics = one_step
  session = _session(c)
  # More padding on the right, in a longer row of a longer context.
  long = _plain()
  long.data.length += 4
  wide = {k: np.pad(v, [(0, 0), (0, 4)]) if v.ndim == 2 else v
          for k, v in batch.items()}
  other = _session(long)
  state, found = other.step(other.init(), wide, other.settings)
  np.testing.assert_allclose(found['loss'], metrics['loss'], rtol=1e-5)
  same(want, state.params, rtol=1e-4, atol=2e-6)
  # A batch without targets.
  nothing = batch | dict(targets=np.zeros_like(batch['targets']))
  before = jax.device_get(session.init().params)
  state, found = session.step(session.init(), nothing, session.settings)
  assert found['loss'] == 0 and found['grad_norm'] == 0
  same(before, state.params)


def test_align_shifts_once():
  batch = dict(tokens=jnp.array([[5, 6, 7, 8, 9, 0]]),
               segments=jnp.array([[1, 1, 1, 2, 2, 0]]),
               targets=jnp.array([[False, True, True, False, True, False]]))
  pool = train.align(batch)
  np.testing.assert_array_equal(pool['labels'], [[6, 7, 8, 9, 0, 0]])
  np.testing.assert_array_equal(
      pool['where'], [[True, True, False, True, False, False]])


def _sampling(**kw):
  return language.sampling('speculative', **kw)


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


def test_blend_says_its_own_log_probabilities():
  z = jax.random.normal(jax.random.key(1), (2, 3000, 4)) * 0 + jnp.array(
      [[[0., 1, 2, 3]], [[2., 0, 0, 0]]])
  token, info = samplings._blend(_sampling(share=0.2))(
      tuple(z), jax.random.key(0))
  mixed = 0.8 * jax.nn.softmax(z[0, 0]) + 0.2 * jax.nn.softmax(z[1, 0])
  np.testing.assert_allclose(np.bincount(token, minlength=4) / 3000, mixed,
                             atol=0.03)
  np.testing.assert_allclose(np.exp(info['sample_log_probs']), mixed[token],
                             rtol=1e-5)


def test_cache_is_the_teacher(tmp_path):
  live = student(kd())
  kept = student(kd(), cache=dict(top_k=98, folder=str(tmp_path / 'kept')))
  for name, c in (('live', live), ('kept', kept)):
    distill_lm.run(c, tmp_path / name)
  same(params(tmp_path / 'live'), params(tmp_path / 'kept'), rtol=2e-3,
       atol=2e-5)
  file, = (tmp_path / 'kept').glob('teacher-*/log_probs.npy')
  whole = file.read_bytes()
  file.write_bytes(whole[:-4] + b'spam')
  distill_lm.run(kept, tmp_path / 'again')  # damaged, so written again
  assert file.read_bytes() == whole
  same(params(tmp_path / 'kept'), params(tmp_path / 'again'))


def test_from_likeliest_keeps_the_mass_of_the_tail():
  z = jax.nn.log_softmax(jax.random.normal(jax.random.key(0), (5, 9)))
  top, which = jax.lax.top_k(z, 3)
  found = train.from_likeliest(which, top, 9)
  np.testing.assert_allclose(jnp.exp(found).sum(-1), 1, rtol=1e-5)
  np.testing.assert_allclose(
      jnp.take_along_axis(found, which, -1), top, rtol=1e-6)


def test_lora_moves_nothing_else(tmp_path):
  c = student(kd(), trainable='/lora_', start='base')
  c.members.base = language.member(by_seed=True)
  c.model.kw = dict(depth=1, width=16, heads=2, hidden=24, lora_rank=2)
  distill_lm.run(c, tmp_path / 'run')
  step2, step4 = (params(tmp_path / 'run', s) for s in (2, 4))
  moved = {n for n in step2 if (step2[n] != step4[n]).any()}
  assert moved and all('/lora_' in n for n in moved)


def test_checkpoints_are_exported_and_merged(tmp_path):
  """kt-merge takes runs and what they export; both means are the same."""
  from kt_jax.cli import main as kt_merge
  for seed in (0, 1):
    c = small(language.pretrain_lm())
    c.seed, c.export = seed, True
    c.loop.steps = 2
    pretrain_lm.run(c, tmp_path / str(seed))
  found = []
  for name in ('{}', '{}/hf'):
    recipe, out = tmp_path / 'recipe.yml', tmp_path / f'out{len(found)}'
    recipe.write_text(json.dumps(dict(
        merge_method='linear', dtype='float32', models=[
            dict(model=str(tmp_path / name.format(seed)),
                 parameters=dict(weight=0.5)) for seed in (0, 1)])))
    assert kt_merge.main(['--quiet', str(recipe), str(out)]) == 0
    found.append(out)
  merged = models.from_pretrained(found[1])
  want = {n: (params(tmp_path / '0')[n] + params(tmp_path / '1')[n]) / 2
          for n in params(tmp_path / '0')}
  same(want, models.split(merged)[1], rtol=1e-6, atol=1e-7)
  raw = checkpoint.open_safetensors(found[0])
  same(want, {n: raw[f'params/{n}'] for n in want}, rtol=1e-6,
       atol=1e-7)
  arrays = data.load_text(c.data).test
  assert merged(arrays.tokens).shape == (*arrays.tokens.shape, 99)


def test_domains_follow_the_gap(tmp_path):
  c = student(kd())
  for part in (c, c.pretrain):
    part.data.domains.copy = language.domain('task:copy', 48, 8, 8, longest=3,
                                             letters='abcdefgh')
    part.data.prompt, part.data.length = 10, 16
  c.mixture.update(every=2, smoothing=0.5, rows=8)
  distill_lm.run(c, tmp_path / 'run')
  rows = [r for r in train.read_metrics(tmp_path / 'run' / 'metrics.jsonl')
          if r['split'] == 'mixture']
  assert [r['step'] for r in rows] == [0, 2]
  for row in rows:
    assert row['add'] + row['copy'] == pytest.approx(1)
  assert min(rows[1]['add'], rows[1]['copy']) >= 0.25  # smoothing / domains


def test_prompted_teacher():
  """The prompt learns, the teacher does not, and the student sees it."""
  c = student(
      language.token_term('reverse_kl', teacher='prompted',
                          trains=('student',)),
      language.token_term('reverse_kl', learner='prompted', teacher='student',
                          trains=('prompt',)),
      language.token_term('reverse_kl', learner='prompted', teacher='teacher',
                          trains=('prompt',)))
  c.teachers.prompted = language.token_teacher(
      kind='prompted', of='teacher', module='prompt')
  c.modules.prompt = common.module('SoftPrompt', count=3)
  c.sampling.source = 'student'
  distill_lm.check(c)
  session = _session(c)
  state = session.init()
  before = jax.device_get(state.params)
  teacher = jax.device_get(session.settings.frozen)
  state, _ = session.step(state, _batch(c), session.settings)
  assert before['@prompt/embedding'].shape == (3, 24)
  for name in ('@prompt/embedding', 'embed/embedding'):
    assert (before[name] != state.params[name]).any()
  jax.tree.map(np.testing.assert_array_equal, teacher, jax.device_get(
      session.settings.frozen))


@pytest.mark.parametrize('message,changes', [
    ('kind of teacher', dict(teachers=dict(x=dict(
        language.token_teacher(kind='frosen'))))),
    ('source .sampling.source.', dict(sampling=dict(source='studnet'))),
    ('data.prompt must be', dict(sampling=dict(source='student'),
                                 data=dict(prompt=0))),
    ('cache.top_k must be', dict(cache=dict(top_k=99))),
    ('with sampling.source', dict(cache=dict(top_k=9),
                                  sampling=dict(source='student'))),
    ('mixture.every moves', dict(mixture=dict(every=2))),
    ('evaluate.responses needs', dict(evaluate=dict(responses=2),
                                      data=dict(prompt=0))),
    ('set tokenizer=', dict(members=dict(teacher=dict(changes=dict(
        data=dict(tokenizer='{tokenizer}')))))),
    ('it must be frozen', dict(chunk=8, teachers=dict(teacher=dict(
        tokenizer='characters')))),
    ('mapping', dict(teachers=dict(teacher=dict(
        tokenizer='characters', mapping='bytes')))),
    ('context of 16', dict(data=dict(length=18))),
    ('network .config.terms.term0.teacher', dict(terms=dict(term0=dict(
        teacher='techer')))),
], ids=lambda x: x if isinstance(x, str) else '')
def test_refusals(message, changes, tmp_path):
  c = student(kd())
  text = json.dumps(changes)
  if '{tokenizer}' in text:
    tokenizers = pytest.importorskip('tokenizers')
    tokenizers.Tokenizer(tokenizers.models.WordLevel(
        {'a': 0, '[UNK]': 1}, unk_token='[UNK]')).save(
            str(tmp_path / 'tokenizer.json'))
    changes = json.loads(text.replace('{tokenizer}', str(tmp_path)))
  with c.unlocked(), c.ignore_type():
    c.update(changes)
  with pytest.raises(core.UserError, match=message):
    distill_lm.check(c)
