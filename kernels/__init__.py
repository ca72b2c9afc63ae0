"""The compiled engine: Numba kernels over an explicit SIMD vector type, and the plan that drives them."""
