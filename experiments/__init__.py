"""One module per protocol; a config names the one it runs.

Each has `run(config, workdir) -> {metric: number}` and
`check(config) -> [train.Report]`, which computes nothing.
"""

EXPERIMENTS = (  # what `config.experiment` may be, beside `module:function`
    'bench', 'compare', 'decode', 'distill', 'distill_lm', 'evaluate',
    'finetune', 'merge', 'pretrain', 'pretrain_lm', 'tabular', 'transfer')
