"""Packaging of kt_jax."""
import pathlib
import re

import setuptools

ROOT = pathlib.Path(__file__).parent
VERSION, = re.findall(r"__version__ = '(.+)'",
                      (ROOT / 'kt_jax/__init__.py').read_text())
BUILTIN = setuptools.find_namespace_packages(
    include=['experiments', 'experiments.*', 'configs', 'configs.*'])

# Losses, scores, merging operators, alignment and fusion need no more than
# this: arrays in, arrays out, for any JAX framework.
CORE = [
    # On Python 3.11 pip finds jax 0.10 and flax 0.12.8, from 3.12 on jax
    # 0.12 and flax 0.12.12. flax 0.12.8 does not import beside jax 0.11.1
    # or later; pip sees to that on 3.11, where jax 0.10.2 is the last.
    'jax>=0.10.2,<0.13; python_version >= "3.12"',
    'jax>=0.10.2,<0.11; python_version < "3.12"',
    'numpy>=2',
    'scipy>=1.13',
]
# Checkpoints on disk: of runs (Orbax) and as safetensors.
CHECKPOINT = [
    'etils[epath]',
    'ml-dtypes',
    'orbax-checkpoint>=0.12.8,<0.13',
    'safetensors>=0.5',
    'scikit-learn>=1.6',
    'tqdm>=4.66',
    'xxhash>=3.4',
]
TRAIN = CHECKPOINT + [
    'absl-py',
    'array-record>=0.8',
    'chex>=0.1.92,<0.2',
    'filelock>=3.16',
    'flax>=0.12.12,<0.13; python_version >= "3.12"',
    'flax>=0.12.8,<0.13; python_version < "3.12"',
    'grain>=0.2.18,<0.3',
    'matplotlib>=3.9',
    'ml-collections>=1.1,<2',
    'optax>=0.2.8,<0.3',
    'pillow>=10',
    'platformdirs>=4',
    'tensorboardX>=2.6.2',
    'tensorflow-datasets>=4.9.10,<5',
]
MERGE = CHECKPOINT + ['pyyaml>=6']
LANGUAGE = ['tokenizers>=0.20']
ALIGN = ['POT>=0.9.5', 'ott-jax>=0.5']
SEARCH = ['cmaes>=0.12,<0.14']
LINT = ['pyrefly>=1.5,<1.6', 'ruff>=0.17,<0.18']  # others find other things

setuptools.setup(
    name='kt_jax',
    version=VERSION,
    description='Knowledge transfer between models in JAX.',
    long_description=(ROOT / 'README.md').read_text(),
    long_description_content_type='text/markdown',
    license_expression='Apache-2.0',
    license_files=['LICENSE'],
    keywords=['jax', 'flax', 'knowledge transfer', 'knowledge distillation',
              'model merging', 'continual learning', 'LoRA'],
    classifiers=[
        'Development Status :: 4 - Beta',
        'Intended Audience :: Science/Research',
        'Operating System :: POSIX',
        'Programming Language :: Python :: 3',
        'Programming Language :: Python :: 3.11',
        'Programming Language :: Python :: 3.12',
        'Programming Language :: Python :: 3.13',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
        'Typing :: Typed',
    ],
    packages=[*setuptools.find_packages(include=['kt_jax', 'kt_jax.*']),
              *(f'kt_jax.builtin.{name}' for name in BUILTIN)],
    # An installed `kt-run` finds the experiments and configs here.
    package_dir={'kt_jax.builtin.experiments': 'experiments',
                 'kt_jax.builtin.configs': 'configs'},
    # What was measured is beside the configs.
    package_data={'': ['*.json'], 'kt_jax': ['py.typed']},
    python_requires='>=3.11,<3.14',
    install_requires=CORE,
    entry_points={'console_scripts': [
        'kt-merge = kt_jax.cli.kt_merge:main',
        'kt-run = kt_jax.launch.main:main',
    ]},
    extras_require={
        'train': TRAIN,
        'merge': MERGE,
        'language': LANGUAGE,
        'align': ALIGN,
        'search': SEARCH,
        'cuda': ['jax[cuda12]'],
        'tpu': ['jax[tpu]'],
        'docs': ['mkdocs-material>=9.6,<10'],
        'test': sorted(
            {*TRAIN, *MERGE, *LANGUAGE, *ALIGN, *SEARCH, *LINT}) + [
                'ipykernel>=6', 'nbclient>=0.10', 'pytest>=8',
                'pytest-xdist>=3.6', 'setuptools>=77'],
    },
)
