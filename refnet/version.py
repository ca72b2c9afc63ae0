"""The version, in a file that imports nothing: written into every checkpoint that refnet saves."""

__version__ = "0.1.0"
