# For type checkers, in the tree only: the package `refnet.kernels` lives in the top-level folder `kernels/`.
from kernels import *
