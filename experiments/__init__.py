"""One module per protocol; a config names the one it runs.

Each has `run(config, workdir) -> {metric: number}` and
`check(config) -> [train.Report]`, which computes nothing.
"""
