"""The directory of a run: its config, and small files in it."""
import contextlib
import hashlib
import importlib.metadata
import json
import pathlib
import platform
import subprocess
from typing import Any

from etils import epath
import jax

from kt_jax import core

# Keys that change no number: they may differ between a run and its resumption,
# here and in nested configs.
FREE = ('mesh', 'data.data_dir')


def write_atomic(path, content: str | bytes) -> None:
  """Writes a file completely or not at all; an old file stays till then.

  Of the processes of a run the first writes, the others do nothing.

  Raises:
    UserError: the disk is full, the place read-only.
  """
  if jax.process_index():
    return
  path = epath.Path(path)
  part = path.parent / f'.{path.name}.part'
  try:
    if isinstance(content, bytes):
      part.write_bytes(content)
    else:
      part.write_text(content)
    part.replace(path)
  except OSError as e:
    with contextlib.suppress(OSError):
      part.unlink(missing_ok=True)
    raise core.UserError(f'Cannot write {path}: {e.strerror or e}.') from e


def write_json(path, value: Any) -> None:
  write_atomic(path, json.dumps(value, indent=1, sort_keys=True) + '\n')


def read_json(path) -> Any:
  """Reads a JSON file.

  Raises:
    UserError: one line on what is wrong with it.
  """
  path = epath.Path(path)
  try:
    return json.loads(path.read_text())
  except (OSError, ValueError, RecursionError) as e:
    raise core.UserError(f'Cannot read {path}: {e}.') from e


def config_hash(config: dict[str, Any]) -> str:
  """16 hex digits of the keys that change numbers (all but `FREE`)."""
  leaves = {k: v for k, v in _leaves(config).items() if not _is_free(k)}
  text = json.dumps(leaves, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:16]


def open_workdir(workdir, config: dict[str, Any]) -> epath.Path:
  """Makes or reopens the directory of a run.

  Args:
    workdir: path or bucket address; relative paths are resolved.
    config: the run's config as plain JSON values; stored as `config.json`.

  Returns:
    Its absolute path.

  Raises:
    UserError: it cannot be written, or holds a run with another config.
  """
  path = epath.Path(workdir)
  if '://' not in str(workdir):
    path = epath.Path(pathlib.Path(workdir).expanduser().resolve())
  stored = path / 'config.json'
  try:
    path.mkdir(parents=True, exist_ok=True)
    probe = path / f'.writable{jax.process_index()}'
    probe.write_text('')
    probe.unlink()
  except OSError as e:
    raise core.UserError(
        f'--workdir {path} cannot be written: {e.strerror or e}.') from e
  if stored.exists():
    old, new = _leaves(read_json(stored)), _leaves(config)
    differ = [k for k in sorted(old.keys() | new.keys())
              if old.get(k) != new.get(k) and not _is_free(k)]
    if differ:
      changes = '; '.join(f'{k} was {old.get(k, "absent")!r}, now '
                          f'{new.get(k, "absent")!r}' for k in differ[:3])
      raise core.UserError(
          f'{path} holds a run with another config ({changes}). Resume with '
          'the same config or name a new --workdir.')
  else:
    write_json(stored, config)
  return path


def code_version() -> dict[str, str]:
  """Commit and versions, for cards."""
  versions = {'python': platform.python_version()}
  for name in ('kt_jax', 'jax', 'flax', 'optax', 'orbax-checkpoint', 'grain',
               'numpy'):
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
      versions[name] = importlib.metadata.version(name)
  with contextlib.suppress(OSError):  # no git on this machine
    git = subprocess.run(
        ['git', '-C', str(pathlib.Path(__file__).parent), 'describe',
         '--always', '--dirty', '--abbrev=12'], capture_output=True, text=True,
        check=False)
    if git.returncode == 0:
      versions['commit'] = git.stdout.strip()
  return versions


def _is_free(key: str) -> bool:
  return any(f'.{f}.' in f'.{key}.' for f in FREE)


def _leaves(value, prefix='') -> dict[str, Any]:
  """'a.b' -> leaf of a nested dict of JSON values."""
  if isinstance(value, dict):
    return {k: v for name, child in value.items()
            for k, v in _leaves(child, f'{prefix}{name}.').items()}
  return {prefix[:-1]: list(value) if isinstance(value, tuple) else value}
