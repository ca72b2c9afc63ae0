"""Fuzzing of everything that reads files of strangers.

    python -m tests.fuzz --minutes 10            every target, by Atheris where it is installed, else by mutation
    python -m tests.fuzz --target pickle         one of them
    python -m tests.fuzz.corpus                  make the files to start from again

`targets.py` is the registry: what is fuzzed, and what counts as a finding. Findings are written to
`tests/corpus/<target>/found-<hash>`; mend what they show and commit them, and `tests/test_fuzz.py` reads them ever after.
"""
