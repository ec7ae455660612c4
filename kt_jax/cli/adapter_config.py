"""`adapter_config.json` of a PEFT LoRA adapter, checked."""
import re
from typing import Any

from kt_jax import core
from kt_jax.checkpoint import safetensors

# Settings under which the weights are not base + scale * B A.
_REFUSED = {
    'use_dora': 'DoRA', 'use_qalora': 'QALoRA', 'use_bdlora': 'BD-LoRA',
    'kasa_config': 'KaSA', 'arrow_config': 'Arrow routing',
    'monteclora_config': 'MonteCLoRA',
    'alora_invocation_tokens': 'activated LoRA',
    'trainable_token_indices': 'trainable tokens',
    'target_parameters': 'LoRA on single parameters',
    'layer_replication': 'replicated layers'}
# These change the base before training; the adapter is relative to that.
_CHANGES_BASE = ('pissa', 'corda', 'olora', 'loftq', 'lora_ga', 'mica')


def read_config(folder) -> dict[str, Any]:
  """The settings of `adapter_config.json` that folding needs, checked.

  Raises:
    UserError: no such file, a kind of adapter that does not fold, a value that
      is not allowed.
  """
  path = folder / 'adapter_config.json'
  if not path.is_file():
    raise core.UserError(f'{folder}: has no adapter_config.json; what follows '
                         'a + must be the directory of a PEFT adapter.')
  values = safetensors.read_object(path)

  def get(key, default, valid, allowed):
    value = values.get(key)
    value = default if value is None else value
    if not valid(value):
      raise core.UserError(f'{path}: {key} must be {allowed}, got '
                           f'{value!r:.80}.')
    return value

  size = lambda v: type(v) is int and 1 <= v <= 2 ** 16
  number = lambda v: type(v) in (int, float) and abs(v) <= 1e9
  flag = lambda v: isinstance(v, bool)
  table = lambda each: lambda v: isinstance(v, dict) and all(
      map(each, v.values())) and all(map(_safe_pattern, v))
  get('peft_type', 'LORA', lambda v: v == 'LORA',
      "'LORA', the one kind that folds into its base")
  for key, word in _REFUSED.items():
    if values.get(key):
      raise core.UserError(f'{path}: {key} is set; {word} does not fold into '
                           'the weights as plain LoRA does. Merge it with peft '
                           '(merge_and_unload) first.')
  start = values.get('init_lora_weights', True)
  if isinstance(start, str) and start.lower().startswith(_CHANGES_BASE):
    raise core.UserError(
        f'{path}: init_lora_weights {start!r} changed the base; save the '
        'adapter with path_initial_model_for_weight_conversion.')
  pattern = 'an object of plain patterns -> '
  return dict(
      r=get('r', 8, size, 'a whole number from 1 to 65536'),
      lora_alpha=get('lora_alpha', 8, number, 'a number'),
      use_rslora=get('use_rslora', False, flag, 'true or false'),
      fan_in_fan_out=get('fan_in_fan_out', False, flag, 'true or false'),
      rank_pattern=get('rank_pattern', {}, table(size), pattern + 'rank'),
      alpha_pattern=get('alpha_pattern', {}, table(number), pattern + 'alpha'))


def _safe_pattern(pattern: str) -> bool:
  """Whether a regex of unknown origin compiles and cannot backtrack long."""
  if len(pattern) > 500 or re.search(r'\)[*+?{]', pattern) or len(
      re.findall(r'(?<!\\)[*+{]', pattern)) > 3:
    return False
  try:
    re.compile(pattern)
  except re.error:
    return False
  return True


def value_for(table, module, default):
  """The entry whose pattern is the end of a module's name, as in peft."""
  for pattern, value in table.items():
    if re.fullmatch(rf'(.*\.)?({pattern})', module):
      return value
  return default
