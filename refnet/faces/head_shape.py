"""A mean head in space, and how heads differ from it: numbers made by weights/recipes/head_template.py.

Axes: x to the image's right, y down, z away from the camera, for a head that looks into it. Millimetres of an adult
whose outer eye corners are 90 mm apart.
"""

from __future__ import annotations

import numpy as np

from refnet.arrays import Array
from refnet.faces.schemes import MIRROR_98

#: A row for each of WFLW's points of the middle and of the image's right half, but for the outline, which slides
#: over the head as it turns, and the pupils. Index; x, y, z from the middle between the outer corners of the
#: eyes; root mean square error of the point over many heads; x and y of each of eight modes, the ways in which
#: faces differ most, one standard deviation each.
_TABLE = """
42 13.5 -19.2 -10.9 3.4 -0.6 2.1 0.4 1.8 0.1 0.3 -0.4 -0.0 0.2 0.3 0.0 1.1 1.0 -0.1 -0.2 -0.9
43 23.9 -21.1 -7.4 3.1 -0.7 2.0 0.6 1.6 0.2 0.7 -0.4 0.2 0.2 0.2 -0.0 0.7 1.0 0.0 -0.2 -0.4
44 34.4 -22.0 -3.7 3.0 -0.7 1.7 0.8 1.4 0.3 1.0 -0.4 0.5 0.3 0.2 -0.2 0.1 0.9 0.2 -0.1 0.1
45 44.8 -20.8 0.2 3.1 -0.7 1.1 1.1 1.1 0.3 1.4 -0.5 0.7 0.3 0.4 -0.2 -0.5 0.8 0.4 -0.2 0.6
46 54.7 -12.5 3.6 3.7 -0.5 0.2 1.4 0.7 0.4 1.8 -0.5 1.0 0.2 0.7 -0.1 -1.3 0.5 0.5 -0.3 0.8
47 44.8 -14.6 -0.5 3.2 -0.7 1.1 1.1 1.0 0.3 1.6 -0.5 0.8 0.3 0.1 -0.2 -0.8 0.8 0.4 -0.2 0.7
48 34.4 -15.2 -4.4 2.9 -0.7 1.6 0.9 1.3 0.3 1.2 -0.4 0.5 0.3 -0.1 -0.2 -0.1 0.9 0.1 -0.1 0.2
49 23.8 -14.5 -8.1 2.8 -0.7 1.8 0.6 1.5 0.1 0.8 -0.4 0.3 0.2 -0.0 -0.0 0.4 1.0 -0.1 -0.2 -0.3
50 13.6 -13.0 -11.4 3.2 -0.6 1.8 0.4 1.7 0.1 0.4 -0.4 0.1 0.2 0.1 0.0 0.8 1.0 -0.3 -0.2 -0.7
51 0.0 -1.8 -14.2 2.7 0.0 -0.8 0.0 0.4 0.0 -0.6 0.0 -0.4 0.0 0.2 0.0 0.1 0.0 -0.0 0.0 -0.1
52 0.0 10.3 -20.6 2.9 0.0 0.6 0.0 0.8 0.0 -1.5 0.0 -0.6 0.0 -0.0 0.0 0.3 0.0 0.1 0.0 0.2
53 0.0 22.4 -27.0 3.7 0.0 2.0 0.0 1.2 0.0 -2.4 0.0 -0.7 0.0 -0.1 0.0 0.4 0.0 0.2 0.0 0.5
54 0.0 34.0 -32.5 4.6 0.0 3.4 0.0 1.5 0.0 -3.3 0.0 -0.8 0.0 -0.3 0.0 0.5 0.0 0.4 0.0 0.8
57 0.0 43.6 -22.6 2.5 0.0 1.9 0.0 0.6 0.0 -2.1 0.0 -0.4 0.0 -0.1 0.0 0.0 0.0 0.2 0.0 0.6
58 8.1 42.5 -20.2 2.2 0.2 1.5 0.4 0.3 -0.1 -1.8 0.2 -0.5 -0.3 0.1 -0.2 0.1 -0.1 0.1 0.1 0.6
59 16.0 41.1 -17.3 2.2 0.3 0.9 0.8 -0.1 -0.2 -1.1 0.4 -0.5 -0.5 0.4 -0.5 0.0 -0.2 -0.0 0.1 0.4
68 17.9 0.1 -5.5 2.0 -0.3 -1.4 0.6 0.2 0.5 -0.5 -0.2 -0.3 -0.5 0.7 0.3 -0.1 -0.1 -0.2 0.1 -0.2
69 24.2 -3.9 -5.3 2.0 -0.4 -1.4 0.8 0.2 0.6 -0.4 -0.2 -0.3 -0.7 -1.0 0.3 0.2 -0.2 0.1 0.2 -0.1
70 32.1 -4.9 -4.8 2.3 -0.4 -1.5 0.9 0.2 0.6 -0.1 -0.3 -0.3 -0.1 -1.7 0.2 0.2 -0.3 0.2 0.2 -0.0
71 39.0 -3.3 -2.6 2.1 -0.5 -1.6 1.0 0.1 0.6 0.1 -0.3 -0.2 0.3 -1.2 0.1 -0.0 -0.5 0.1 0.2 0.1
72 45.0 0.0 0.0 2.1 -0.4 -1.9 1.2 -0.0 0.5 0.2 -0.3 0.0 0.4 0.0 0.1 -0.4 -0.5 -0.0 0.1 0.2
73 38.9 2.2 -2.5 2.0 -0.4 -1.8 1.1 -0.1 0.4 -0.1 -0.4 -0.3 0.3 0.6 0.2 -0.1 -0.5 -0.2 0.1 -0.0
74 32.3 3.0 -4.8 2.1 -0.4 -1.7 1.0 -0.1 0.4 -0.2 -0.3 -0.5 -0.0 0.8 0.3 -0.0 -0.4 -0.3 0.1 -0.1
75 24.9 2.3 -5.2 2.0 -0.3 -1.6 0.8 0.0 0.4 -0.3 -0.3 -0.4 -0.3 0.8 0.3 -0.0 -0.2 -0.3 0.1 -0.1
79 0.0 57.7 -21.9 2.1 0.0 1.8 0.0 -1.2 0.0 0.0 0.0 -0.6 0.0 -0.2 0.0 -0.4 0.0 0.1 0.0 -0.4
80 5.5 57.6 -21.4 2.1 -0.1 1.7 0.0 -1.2 0.0 0.1 0.1 -0.6 0.0 -0.2 -0.1 -0.4 -0.1 0.0 -0.1 -0.4
81 17.4 59.9 -14.7 2.7 -0.3 0.9 0.9 -1.9 -0.3 0.9 1.1 -0.3 -0.2 -0.1 -0.8 -0.2 -0.3 -0.1 -0.2 -0.2
82 27.8 64.9 -6.8 4.6 0.0 -0.7 2.0 -2.8 -1.0 2.1 1.5 0.9 -0.3 0.1 -1.8 0.1 -0.5 -0.1 -0.6 0.4
83 20.3 71.2 -11.4 3.9 -0.1 -0.9 1.7 -1.8 -1.1 0.6 1.6 2.5 -0.2 0.1 -1.0 0.6 -0.3 0.1 -0.4 0.2
84 10.9 75.6 -16.0 4.2 -0.1 -0.9 1.0 -1.0 -0.8 -0.7 1.0 3.6 -0.1 0.2 -0.3 1.3 -0.1 0.2 -0.3 -0.1
85 0.0 77.0 -19.5 4.5 0.0 -0.8 0.0 -0.6 0.0 -1.2 0.0 4.0 0.0 0.3 0.0 1.5 0.0 0.2 0.0 -0.2
90 0.0 62.9 -20.9 2.2 0.0 1.6 0.0 -1.5 0.0 0.4 0.0 -0.9 0.0 -0.2 0.0 -0.5 0.0 -0.3 0.0 -0.4
91 13.0 63.4 -14.7 2.6 -0.2 1.0 0.9 -1.9 -0.4 0.9 0.9 -0.6 -0.1 -0.1 -0.7 -0.4 -0.2 -0.3 -0.2 -0.2
92 25.4 65.2 -7.6 4.3 -0.0 -0.6 2.0 -2.6 -1.0 1.8 1.5 0.8 -0.3 0.0 -1.7 0.1 -0.5 -0.1 -0.6 0.3
93 13.2 68.0 -13.7 4.1 -0.1 -0.8 1.2 -1.0 -0.9 -0.5 1.2 3.4 -0.1 0.2 -0.7 0.9 -0.2 0.5 -0.3 -0.0
94 0.0 69.0 -19.2 4.6 0.0 -0.8 0.0 -0.5 0.0 -1.3 0.0 4.1 0.0 0.2 0.0 1.3 0.0 0.6 0.0 -0.2
"""


def _both_sides() -> tuple[tuple[int, ...], Array]:
    """The indices of the points of both sides, and their numbers."""
    known: dict[int, Array] = {}
    for line in _TABLE.split("\n")[1:-1]:
        name, *numbers = line.split(" ")
        i, values = int(name), np.array(numbers, np.float64)
        mirrored = values.copy()
        mirrored[[0, *range(4, len(values), 2)]] *= -1
        known[int(MIRROR_98[i])] = mirrored
        known[i] = values
    return tuple(sorted(known)), np.stack([known[i] for i in sorted(known)])


POINTS, _NUMBERS = _both_sides()

#: (K,) millimetres: the usual error of each of `POINTS`.
ERRORS = _NUMBERS[:, 3]
#: (K,) how certain each is, of 1.
SHARE = 1 / ERRORS**2 / (1 / ERRORS**2).sum()
#: How many times as deep heads are as the table's. Structure from motion gives them flat: wide and narrow faces pass
#: for turned ones, and depth hardly shows in how well a head fits. Two measurements agree. Depths of the reference head
#: of the Surrey Face Model, a model of scans (Huber et al. 2016, VISAPP), are 1.33 times those of the table (14 points,
#: nodded freely; not the corners of the mouth, which the scans have further ahead). And of 4,303 faces, turned
#: as a network says that finds meshes of faces with their depth (MediaPipe's; Kartynnik et al. 2019), the points that
#: other networks found are 1.31 times as deep. Its yaws are 0.9 to 1 times those found here; without this, 0.7 to 0.9.
#: No face by which poses are judged is among them.
DEPTH = 1.3
#: Degrees by which the table's head, upright from the bridge of its nose to its chin, looks up from how heads are held
#: before a camera: so many make the median of 153 faces turned by less than 12 degrees level (0.1 degrees; 1.5 of them
#: -0.3, either by 0.7), by the points of the network that refnet comes with. Measured before `DEPTH`; with it, the
#: median of 2,292 other faces is -0.6 degrees (by 0.2).
LEVEL = 2.0
_c, _s = np.cos(np.radians(LEVEL)), np.sin(np.radians(LEVEL))
#: (K, 3) the places of `POINTS`, from the middle of the face: their mean weighted by their certainty.
HEAD = (_NUMBERS[:, :3] - SHARE @ _NUMBERS[:, :3]) * [1, 1, DEPTH]
HEAD = HEAD @ [[1, 0, 0], [0, _c, _s], [0, -_s, _c]]
#: (M, K, 3) the modes; they have no depth.
MODES = np.zeros((_NUMBERS.shape[1] // 2 - 2, len(POINTS), 3))
MODES[:, :, 0] = _NUMBERS[:, 4::2].T
MODES[:, :, 1] = _NUMBERS[:, 5::2].T
for _array in (ERRORS, SHARE, HEAD, MODES):
    _array.flags.writeable = False
