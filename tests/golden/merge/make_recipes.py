"""Writes recipes.json: what mergekit resolves for the tensors of recipes.

Made with mergekit 0.1.5, torch 2.13.0, transformers 5:
  python tests/golden/merge/make_recipes.py
The models are made on the fly; only their names and shapes matter.
"""
import json
import os
import pathlib
import tempfile

from mergekit import architecture
from mergekit import config as config_lib
from mergekit import io
from mergekit import merge
from mergekit import options as options_lib
from mergekit import plan
import torch
import transformers
import yaml

HERE = pathlib.Path(__file__).parent
KEPT = ('embed_tokens', 'model.norm', 'lm_head', 'q_proj', 'down_proj')

RECIPES = [
    # Weights and a shared parameter, at the model and for all.
    """
merge_method: linear
models:
  - model: a
    parameters: {weight: 0.3}
  - model: b
parameters: {weight: 1, normalize: false}
""",
    # A gradient of two models; text that is a number.
    """
merge_method: linear
models:
  - model: a
    parameters: {weight: [0, 0.5, 1]}
  - model: b
    parameters: {weight: [1, 5e-1, "0"]}
dtype: float32
""",
    # Filters, the last for all others; gradients within filters.
    """
merge_method: slerp
base_model: a
models: [{model: a}, {model: b}]
parameters:
  t:
    - filter: self_attn
      value: [0, 0.5, 0.3, 0.7, 1]
    - filter: mlp
      value: [1, 0.5, 0.7, 0.3, 0]
    - value: 0.5
""",
    # A filter that falls through to the next level.
    """
merge_method: ties
base_model: base
models:
  - model: a
    parameters:
      density: [{filter: q_proj, value: 0.25}]
      weight: 0.5
  - model: b
    parameters: {density: 0.5, weight: [0, 0.3, 0.7, 1]}
parameters: {density: 0.75, normalize: true, int8_mask: true, lambda: 0.9}
""",
    # The base listed among the models, with parameters of its own.
    """
merge_method: dare_ties
base_model: base
models:
  - model: base
    parameters: {weight: 9, density: 0.1}
  - model: a
    parameters: {weight: 1e-1, density: 0.53}
  - model: b
    parameters: {weight: 0.3}
parameters: {rescale: false}
""",
    """
merge_method: task_arithmetic
base_model: base
models:
  - model: a
    parameters: {weight: -1}
parameters: {lambda: [0.1, 0.9]}
""",
    # Slices with layers of their own, gradients within each.
    """
merge_method: passthrough
slices:
  - sources:
      - {model: a, layer_range: [0, 3]}
  - sources:
      - model: b
        layer_range: [1, 4]
        parameters:
          scale:
            [{filter: down_proj, value: 0}, {filter: q_proj, value: [1, 3]}]
""",
    # Parameters at the source, the slice and the recipe.
    """
merge_method: slerp
base_model: a
slices:
  - sources:
      - {model: a, layer_range: [0, 2]}
      - {model: b, layer_range: [2, 4]}
    parameters: {t: [0.2, 0.4]}
  - sources:
      - {model: a, layer_range: [2, 3]}
      - {model: b, layer_range: [0, 1]}
parameters:
  t: [{filter: q_proj, value: [0.5, 0.9]}, {filter: "*", value: 0.1}]
""",
    # Filters on numbers of layers see the names in each input.
    """
merge_method: linear
slices:
  - sources:
      - model: a
        layer_range: [0, 2]
        parameters:
          weight: [{filter: layers.0., value: 0.1}, {value: 0.2}]
      - model: b
        layer_range: [2, 4]
        parameters:
          weight: [{filter: layers.2., value: 0.3}, {value: 0.4}]
""",
    # A slice with a base of its own.
    """
merge_method: breadcrumbs
base_model: base
slices:
  - base_model: a
    sources:
      - {model: a, layer_range: [0, 1]}
      - {model: b, layer_range: [0, 1], parameters: {weight: 0.7, gamma: 0.02}}
  - sources:
      - {model: base, layer_range: [1, 4]}
      - {model: b, layer_range: [1, 4]}
parameters: {weight: [0.1, 0.2], density: [0.9, 0.5]}
""",
    # modules, with parameters between slice and recipe.
    """
merge_method: della
base_model: base
modules:
  default:
    models:
      - model: a
        parameters: {epsilon: 0.05}
      - model: b
    parameters: {density: 0.6, weight: 0.4}
parameters: {density: 0.1, weight: 0.8, normalize: off}
""",
    """
merge_method: nuslerp
models:
  - model: a
    parameters: {weight: [1, 0]}
  - model: b
    parameters: {weight: 2}
parameters:
  nuslerp_flatten: [true, true, false]
  nuslerp_row_wise: [{filter: mlp, value: "yes"}]
""",
    """
merge_method: model_stock
base_model: base
models: [{model: a}, {model: b}]
parameters: {filter_wise: [{filter: mlp, value: true}]}
""",
    """
merge_method: karcher
models: [{model: a}, {model: b}, {model: base}]
parameters: {max_iter: "7", tol: 1e-6}
""",
    """
merge_method: sce
base_model: base
models: [{model: a}, {model: b}]
parameters: {select_topk: [0.1, 0.5]}
""",
]


def make_models():
  config = transformers.LlamaConfig(
      vocab_size=11, hidden_size=8, intermediate_size=12, num_hidden_layers=4,
      num_attention_heads=2, num_key_value_heads=1, tie_word_embeddings=False)
  torch.manual_seed(0)
  for name in ('a', 'b', 'base'):
    transformers.LlamaForCausalLM(config).save_pretrained(name)


def resolve(text):
  config = config_lib.MergeConfiguration.model_validate(yaml.safe_load(text))
  options = options_lib.MergeOptions(device='cpu')
  arch = architecture.get_architecture_info(config, options)
  io.tasks.LoaderCache().setup(options)
  # pylint: disable=protected-access
  planner = plan.MergePlanner(config, arch, options,
                              merge._model_out_config(config, arch))
  planner._plan()
  found = {}
  for weight, task in planner._tensors:
    if any(part in weight.name for part in KEPT):
      found[weight.name] = dict(
          inputs={str(m): w.name
                  for m, w in task.gather_tensors.weight_info.items()},
          shared=dict(task.parameters.items()),
          each={str(m): dict(v) for m, v in task.input_parameters.items()})
  return dict(recipe=text.strip() + '\n', tensors=found)


def main():
  with tempfile.TemporaryDirectory() as folder:
    here = os.getcwd()
    os.chdir(folder)
    make_models()
    cases = [resolve(text) for text in RECIPES]
    os.chdir(here)
  lines = ',\n'.join(json.dumps(case, sort_keys=True) for case in cases)
  (HERE / 'recipes.json').write_text(f'[\n{lines}\n]\n')


if __name__ == '__main__':
  main()
