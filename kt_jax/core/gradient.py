"""Gradient reversal."""
import jax
from jax import numpy as jnp


@jax.custom_vjp
def reverse_gradient(x: jax.Array, scale: jax.Array | float) -> jax.Array:
  """`x`, with its gradient multiplied by `-scale`.

  The layers below then ascend the loss that the layers above descend.

  Args:
    x: any shape.
    scale: a scalar, possibly traced; itself without gradient.

  Returns:
    `x`, bit for bit. Reverse mode only.
  """
  del scale
  return x


def _forward(x, scale):
  return x, scale


def _backward(scale, grad):
  return -scale * grad, jnp.zeros_like(scale)


reverse_gradient.defvjp(_forward, _backward)
