"""Pictures of receptive fields, by matplotlib (the extra `plot`), and an explorer for the browser.

    heat_map, comparison    one field, or several beside each other, over an image where one is given
    profile                 a field's marginals with their Gaussians
    sheet                   every branch of a network: what it sees, what it looks at, what it looks for
    animation               a field growing from layer to layer
    explorer                a page that needs nothing but itself

Each of the first four returns a matplotlib figure or writes a GIF; `save` writes PNG, SVG or PDF.
"""

from refnet.fields.figures.depth import animation
from refnet.fields.figures.explorer import explorer
from refnet.fields.figures.heat_map import comparison, heat_map
from refnet.fields.figures.profile import profile
from refnet.fields.figures.sheet import sheet
from refnet.fields.figures.style import save

__all__ = ["animation", "comparison", "explorer", "heat_map", "profile", "save", "sheet"]
