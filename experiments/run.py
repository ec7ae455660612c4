"""The command `kt-run`, as `python -m experiments.run`."""
import sys

from kt_jax.launch import main

if __name__ == '__main__':
  sys.exit(main.main())
