"""Hooks of mkdocs: the reference, and links that leave the site."""
import importlib
import inspect
import posixpath
import re

PACKAGES = ('losses', 'scores', 'merge', 'align', 'fuse', 'stats', 'procedures',
            'modules', 'models', 'data', 'checkpoint', 'train', 'core')


def reference(name: str) -> str:
  """Markdown: the docstrings of a package and of its public functions."""
  package = importlib.import_module(f'kt_jax.{name}')
  parts = [f'# kt_jax.{name}', inspect.getdoc(package)]
  for public in sorted(vars(package)):
    fn = getattr(package, public)
    if public.startswith('_') or not (inspect.isfunction(fn)
                                      or inspect.isclass(fn)):
      continue
    try:
      signature = str(inspect.signature(fn))
    except ValueError:  # of a NamedTuple's meta class and the like
      signature = ''
    # Default values that are objects have addresses in their text.
    signature = re.sub(r' at 0x[0-9a-f]+', '', signature)
    parts += [f'## {public}', f'```python\n{public}{signature}\n```',
              f'```text\n{inspect.getdoc(fn) or ""}\n```']
  return '\n\n'.join(parts) + '\n'


def on_files(files, config):
  """Adds a page for each package."""
  from mkdocs.structure.files import File
  for name in PACKAGES:
    files.append(File.generated(config, f'reference/{name}.md',
                                content=reference(name)))


def on_page_markdown(markdown, page, config, files):
  """Links to files of the repository go to `repo_url`, or become text."""
  del files
  folder = posixpath.dirname(page.file.src_uri)
  def link(match):
    text, target = match.groups()
    path = posixpath.normpath(posixpath.join(folder, target))
    if not path.startswith('../'):
      return match[0]
    return (f'[{text}]({config.repo_url.rstrip("/")}/blob/HEAD/{path[3:]})'
            if config.repo_url else text)
  return re.sub(r'\[([^\]]*)\]\((\.\./[^)\s]*)\)', link, markdown)
