"""Report of transfers between pairs of models: tables, claims, plots.

`pairs.csv` holds a row per (seed, method, student, teacher); teacher '' where
the method uses none. `multi.csv`, optional, a row per (seed, student, mode) of
transfers from several teachers. Fractions in both, `delta` in points.

  python -m experiments.transfer_report DIR   # the report of a finished run
"""
import argparse
import csv
import io
import math

from etils import epath
import numpy as np

from experiments import transfer_plots
from kt_jax import checkpoint
from kt_jax import core
