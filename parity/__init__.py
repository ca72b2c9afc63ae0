"""Torch twins of every network and the comparisons of refnet with them. Never installed.

twins/            one torch module a network, with the original tensor names
formula.py        weights and inputs that are formulas (free of torch)
folding.py        training-form weights to inference-form ones, by torch's own fusion
conditioning.py   weights under which float32 gradients can be compared
cases.py          what is compared
compare.py        one comparison; __main__.py, all of them: `python -m parity`
"""
