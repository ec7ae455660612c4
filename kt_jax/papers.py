"""The papers that kt_jax draws on; data only.

`python -m kt_jax.papers` prints them as the Markdown table of the README,
`python -m kt_jax.papers --write README.md` puts it between the two markers.
A docstring's `References:` and a folder of `configs/` name a paper by its key.
"""
import argparse
import pathlib
from typing import NamedTuple

STATUS = {
    'formula': 'written and documented',
    'checked': 'agrees with an independent implementation or an identity',
    'run': 'its config has run end to end on real data',
    'replicated': 'a claim of the paper held in our run',
}
BEGIN, END = '<!-- papers:begin -->', '<!-- papers:end -->'


class Paper(NamedTuple):
  """A paper and what it is here."""
  title: str
  year: int
  arxiv: str  # identifier, '' if it is not there
  functions: tuple[str, ...]  # public names, 'losses.kd'
  configs: tuple[str, ...] = ()  # paths from the root of the repository
  status: str = 'formula'  # a key of STATUS, of the least advanced function
  note: str = ''


PAPERS = {
    'roth2024fantastic': Paper(
        'Fantastic Gains and Where to Find Them: On the Existence and Prospect '
        'of General Knowledge Transfer between Any Pretrained Model',
        2024, '2310.17653',
        ('losses.kd', 'losses.partitioned_kd', 'scores.rho_positive',
         'scores.rho_negative', 'scores.class_flips',
         'scores.areas_of_expertise', 'scores.knowledge_gain',
         'scores.knowledge_loss', 'scores.transfer_rate', 'merge.linear'),
        ('configs/roth2024fantastic/digits.py',
         'configs/roth2024fantastic/mnist.py',
         'configs/roth2024fantastic/cifar10.py',
         'configs/roth2024fantastic/imagenet.py'),
        'replicated',
        'held on digits and CIFAR-10: data partitioning above plain KL in '
        'success rate and worst quartile; undecided: above self-distillation. '
        'XE-KL is `losses.cross_entropy` + `losses.kd`, MCL is `merge.linear`'),
    'hinton2015kd': Paper(
        'Distilling the Knowledge in a Neural Network', 2015, '1503.02531',
        ('losses.kd',), (), 'checked'),
    'wortsman2022soups': Paper(
        'Model soups: averaging weights of multiple fine-tuned models improves '
        'accuracy without increasing inference time', 2022, '2203.05482',
        ('merge.linear',), (), 'checked', 'uniform soup: weights 1/T'),
    'guo2017calibration': Paper(
        'On Calibration of Modern Neural Networks', 2017, '1706.04599',
        ('train.classification_metrics',)),
    'zhang2018mixup': Paper(
        'mixup: Beyond Empirical Risk Minimization', 2018, '1710.09412',
        ('data.mixup',)),
    'yun2019cutmix': Paper(
        'CutMix: Regularization Strategy to Train Strong Classifiers with '
        'Localizable Features', 2019, '1905.04899', ('data.cutmix',)),
    'he2016deep': Paper(
        'Deep Residual Learning for Image Recognition', 2016, '1512.03385',
        ('models.resnet18', 'models.resnet34', 'models.resnet50',
         'models.resnet8', 'models.resnet14', 'models.resnet20',
         'models.resnet32', 'models.resnet44', 'models.resnet56',
         'models.resnet110')),
    'zagoruyko2016wide': Paper(
        'Wide Residual Networks', 2016, '1605.07146',
        ('models.wrn_16_1', 'models.wrn_16_2', 'models.wrn_40_1',
         'models.wrn_40_2', 'models.wrn_28_10')),
    'simonyan2015vgg': Paper(
        'Very Deep Convolutional Networks for Large-Scale Image Recognition',
        2015, '1409.1556',
        ('models.vgg8', 'models.vgg11', 'models.vgg13', 'models.vgg16',
         'models.vgg19')),
    'sandler2018mobilenetv2': Paper(
        'MobileNetV2: Inverted Residuals and Linear Bottlenecks', 2018,
        '1801.04381', ('models.mobilenet_v2', 'models.mobilenet_v2_half')),
    'dosovitskiy2021vit': Paper(
        'An Image is Worth 16x16 Words: Transformers for Image Recognition at '
        'Scale', 2021, '2010.11929',
        ('models.vit_tiny', 'models.vit_small', 'models.vit_base')),
    'tolstikhin2021mixer': Paper(
        'MLP-Mixer: An all-MLP Architecture for Vision', 2021, '2105.01601',
        ('models.mixer_small', 'models.mixer_base')),
}


def table() -> str:
  """The Markdown table, newest paper first, without a final newline."""
  rows = ['| paper | key | here | config | status |', '|---|---|---|---|---|']
  for key, paper in sorted(PAPERS.items(), key=lambda x: (-x[1].year, x[0])):
    title = paper.title
    if paper.arxiv:
      title = f'[{title}](https://arxiv.org/abs/{paper.arxiv})'
    here = ', '.join(f'`{name}`' for name in paper.functions)
    if paper.note:
      here += f'; {paper.note}'
    configs = ', '.join(f'[{pathlib.PurePosixPath(path).stem}]({path})'
                        for path in paper.configs)
    rows.append(f'| {title}, {paper.year} | `{key}` | {here} | {configs} | '
                f'{paper.status} |')
  legend = '; '.join(f'*{name}*: {what}' for name, what in STATUS.items())
  return '\n'.join(rows) + f'\n\n{legend}.'


def between(text: str) -> tuple[str, str, str]:
  """What stands before, between and after the two markers.

  Raises:
    ValueError: the markers are not there once each, in order.
  """
  head, begin, rest = text.partition(BEGIN)
  middle, end, tail = rest.partition(END)
  if not (begin and end) or BEGIN in rest or END in head + tail:
    raise ValueError(f'The text needs one {BEGIN} and, after it, one {END}.')
  return head, middle.strip('\n'), tail


def main(argv: list[str] | None = None) -> None:
  """Prints the table or writes it into a file."""
  parser = argparse.ArgumentParser(
      prog='python -m kt_jax.papers', description='The table of papers.')
  parser.add_argument('--write', metavar='FILE', type=pathlib.Path,
                      help='put it between the markers of this file')
  path = parser.parse_args(argv).write
  if path is None:
    print(table())
    return
  try:
    head, _, tail = between(path.read_text())
  except (OSError, ValueError) as e:
    parser.error(f'--write {path}: {e}')
  path.write_text(f'{head}{BEGIN}\n{table()}\n{END}{tail}')


if __name__ == '__main__':
  main()
