"""The tests; a package so that they can share the support file `checkpoint_files.py`."""
