"""How fast networks run here, next to other engines.

measurement     the rounds: the core's peak and every engine in turn, and what they come to
peers           other engines with one signature; ncnn_files, tflite_file, torch_script and fused write for them
media, photos   from files to faces: a video; photos, beside other detectors
memory          peak memory, in a process of its own
startup         from a fresh process to the first result, engines in turn
chart           the ratios as a picture
"""

from refnet.benchmark.chart import plot
from refnet.benchmark.measurement import Result, layers, measure, pin
from refnet.benchmark.memory import peak_memory
from refnet.benchmark.peers import PEERS
from refnet.benchmark.startup import Startup, startup

__all__ = [
    "PEERS",
    "Result",
    "Startup",
    "layers",
    "measure",
    "peak_memory",
    "pin",
    "plot",
    "startup",
]
