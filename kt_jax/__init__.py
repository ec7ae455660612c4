"""Knowledge transfer in JAX: losses, scores, merges, and runs of them."""
__version__ = '0.1.0'
