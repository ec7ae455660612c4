"""The experiment `tabular`: what it writes, resumes and refuses."""
import csv
import dataclasses

import numpy as np
import pytest

from experiments import tabular
from kt_jax import core
from kt_jax import procedures
from kt_jax.launch import config as configs

NAME = 'configs/zhao2023limits/tabular.py'


def tiny(**kw):
  return dataclasses.replace(configs.load(f'{NAME}:tiny'), **kw)


def own(counts, teacher):
  """The user's own student: labels, smoothed."""
  del teacher
  return (counts + 1) / (counts + 1).sum(1, keepdims=True)


def test_run_writes_and_returns_what_it_found(tmp_path):
  config = tiny()
  found = tabular.run(config, tmp_path)
  rows = list(csv.DictReader((tmp_path / 'results.csv').open()))
  assert len(rows) == 4 * 3 * 2
  assert {row['learner'] for row in rows} == set(config.learners)
  last = [float(row['risk']) for row in rows
          if row['learner'] == 'ce_sgl' and row['n'] == '1000']
  np.testing.assert_allclose(found['ce_sgl_risk'], np.mean(last), rtol=1e-12)
  assert (tmp_path / 'risk.png').stat().st_size > 1000
  before = (tmp_path / 'results.csv').stat().st_mtime_ns
  assert tabular.run(config, tmp_path) == found
  assert (tmp_path / 'results.csv').stat().st_mtime_ns == before
  with pytest.raises(core.UserError, match='another config'):
    tabular.run(tiny(labels=5), tmp_path)


def test_small_holds_what_the_paper_says(tmp_path):
  config = dataclasses.replace(configs.load(f'{NAME}:small'), seeds=(0, 1, 2))
  found = tabular.run(config, tmp_path)
  assert {v for k, v in found.items() if k.endswith('verdict')} == {'holds'}
  assert abs(found['ce_sgl_slope'] + 0.5) < 0.02
  assert found['sel_ptl_slope'] < -0.9 and found['ce_ful_risk'] == 0
  assert abs(found['ce_ptl_risk'] / 0.2527 - 1) < 0.02


def test_seeds_may_take_turns_at_instances(tmp_path):
  one, many = (tabular.run(tiny(instances=n, seeds=(0, 1, 2, 3)),
                           tmp_path / str(n)) for n in (1, 2))
  assert one['ce_sgl_risk'] != many['ce_sgl_risk']


def test_a_student_of_ones_own(tmp_path):
  config = tiny(learners={'tabular_test:own': tabular.Rate(0.5, 1, 1)})
  found = tabular.run(config, tmp_path)
  assert 0 < found['tabular_test:own_risk'] < 0.2


@pytest.mark.parametrize('change, says', [
    (dict(learners={'ce_sgll': tabular.Rate(1.0)}),
     "Did you mean 'ce_sgl'"),
    (dict(learners={'sample': tabular.Rate(1.0)}),
     "No learner 'sample'"),
    (dict(inputs=0), 'inputs must be'), (dict(sizes=()), 'sizes'),
    (dict(seeds=()), 'seeds'), (dict(concentration=0.0), 'concentration')])
def test_bad_config_is_one_clear_line(change, says):
  with pytest.raises(core.UserError, match=says) as e:
    tabular.check(tiny(**change))
  assert '\n' not in str(e.value)


def test_every_learner_of_the_config_is_a_procedure():
  for name in configs.load(NAME).learners:
    assert callable(getattr(procedures, name))
