# For type checkers, in the tree only: the package `refnet.weights` lives in the top-level folder `weights/`.
from weights import *
