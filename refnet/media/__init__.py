"""The outside world: images, drawings, videos, folders, tables of results."""
