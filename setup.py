"""Packaging of kt_jax."""
import pathlib
import re

import setuptools

ROOT = pathlib.Path(__file__).parent
VERSION = re.search(r"__version__ = '(.+)'",
                    (ROOT / 'kt_jax/__init__.py').read_text())[1]
BUILTIN = setuptools.find_namespace_packages(
    include=['experiments', 'experiments.*', 'configs', 'configs.*'])

setuptools.setup(
    name='kt_jax',
    version=VERSION,
    description='Knowledge transfer between models in JAX.',
    long_description=(ROOT / 'README.md').read_text(),
    long_description_content_type='text/markdown',
    packages=[*setuptools.find_packages(include=['kt_jax', 'kt_jax.*']),
              *(f'kt_jax.builtin.{name}' for name in BUILTIN)],
    # An installed `kt-run` finds the experiments and configs here.
    package_dir={'kt_jax.builtin.experiments': 'experiments',
                 'kt_jax.builtin.configs': 'configs'},
    package_data={'': ['*.json']},  # what was measured, beside the configs
    python_requires='>=3.11,<3.14',
    install_requires=[
        # On Python 3.11 pip finds jax 0.10 and flax 0.12.8, from 3.12 on jax
        # 0.12 and flax 0.12.12. flax 0.12.8 does not import beside jax 0.11.1
        # or later; pip sees to that on 3.11, where jax 0.10.2 is the last.
        'jax>=0.10.2,<0.13; python_version >= "3.12"',
        'jax>=0.10.2,<0.11; python_version < "3.12"',
        'flax>=0.12.12,<0.13; python_version >= "3.12"',
        'flax>=0.12.8,<0.13; python_version < "3.12"',
        'optax>=0.2.8,<0.3',
        'orbax-checkpoint>=0.12.8,<0.13',
        'tensorflow-datasets>=4.9.10,<5',
        'grain>=0.2.18,<0.3',
        'array-record>=0.8',
        'chex>=0.1.92,<0.2',
        'ml-collections>=1.1,<2',
        'numpy>=2',
        'absl-py',
        'etils[epath]',
        'ml-dtypes',
        'scikit-learn>=1.6',
        'scipy>=1.13',
        'safetensors>=0.5',
        'pillow>=10',
        'matplotlib>=3.9',
        'tqdm>=4.66',
        'tensorboardX>=2.6.2',
        'xxhash>=3.4',
        'pyyaml>=6',
    ],
    entry_points={
        'console_scripts': ['kt-merge = kt_jax.cli.kt_merge:main',
                            'kt-run = kt_jax.launch.main:main']},
    extras_require={
        'align': ['POT>=0.9.5', 'ott-jax>=0.5'],
        'cuda': ['jax[cuda12]'],
        'language': ['tokenizers>=0.20'],
        'tpu': ['jax[tpu]'],
        'search': ['cmaes>=0.12,<0.14'],
        'test': ['pytest>=8', 'pytest-xdist>=3.6', 'nbclient>=0.10',
                 'ipykernel>=6', 'cmaes>=0.12,<0.14', 'tokenizers>=0.20'],
    },
)
