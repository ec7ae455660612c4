"""Knowledge transfer in JAX: pure losses, scores, merges and the runs of them."""
__version__ = '0.1.0'
