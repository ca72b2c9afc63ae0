"""The compiled engine: Numba kernels over an explicit SIMD vector type, and the plan that drives them.

Nothing is imported until it is asked for: `from refnet.kernels import compiler`. `README.md` says what is where.
"""
