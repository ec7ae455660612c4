"""One module per protocol; a config names the one it runs.

Each has a dataclass `Spec` of what it can be told, `run(spec, workdir) ->
{metric: number}`, and `check(spec) -> [train.Report]`, which computes nothing.
"""

EXPERIMENTS = (  # what `config.experiment` may be, beside `module:function`
    'bench', 'compare', 'decode', 'evaluate', 'generations', 'merge', 'tabular',
    'train', 'transfer')
