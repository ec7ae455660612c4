"""Trains a student on images or text, from labels, teachers, or both."""
from kt_jax import train

Spec = train.Training
check = train.check
run = train.run
