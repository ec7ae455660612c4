"""The machine that the tests see: eight CPU devices and an empty cache."""
import atexit
import os
import pathlib
import shutil
import tempfile

# All of this must be said before JAX is imported. A run on an accelerator sets
# JAX_PLATFORMS itself.
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
# Most of the time of a test goes into compiling what runs once; the older
# emitters of fused loops take half as long.
for _flag, _value in (
    ('--xla_force_host_platform_device_count', 8),
    ('--xla_backend_optimization_level', 0),
    ('--xla_backend_extra_options', 'xla_cpu_disable_new_fusion_emitters'),
    ('--xla_cpu_parallel_codegen_split_count', 1)):
  if _flag not in os.environ.get('XLA_FLAGS', ''):
    os.environ['XLA_FLAGS'] = (
        f'{os.environ.get("XLA_FLAGS", "")} {_flag}={_value}'.strip())
if 'PYTEST_XDIST_WORKER' not in os.environ:  # workers share their parent's
  os.environ['KT_JAX_CACHE'] = tempfile.mkdtemp(prefix='kt_jax_test_')
  atexit.register(shutil.rmtree, os.environ['KT_JAX_CACHE'], True)

from absl import flags  # pylint: disable=wrong-import-position
import pytest  # pylint: disable=wrong-import-position

try:
  # Flax asks tracers for attributes that they lack, at each random number and
  # statistic; the text of that error takes time quadratic in the program.
  from jax._src.interpreters import partial_eval
  partial_eval.DynamicJaxprTracer._origin_msg = lambda self: ''
except (ImportError, AttributeError):  # private: other versions may lack it
  pass

if not flags.FLAGS.is_parsed():
  flags.FLAGS.mark_as_parsed()

ROOT = pathlib.Path(__file__).resolve().parent.parent


@pytest.fixture(scope='session')
def tfds_dir() -> str:
  """A folder with MNIST and CIFAR-10 as TFDS prepares them, or skips."""
  for folder in (os.environ.get('TFDS_DATA_DIR'),
                 ROOT.parent / 'shared' / 'data' / 'tfds'):
    if folder and all((pathlib.Path(folder) / name).is_dir()
                      for name in ('mnist', 'cifar10')):
      return str(folder)
  pytest.skip('needs MNIST and CIFAR-10 in ../shared/data/tfds or '
              '$TFDS_DATA_DIR')
