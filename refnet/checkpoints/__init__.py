"""Files of weights: read any format, find out which network they are of, write safetensors.

    read(path) -> Checkpoint            tensors by the names in the file; nothing is executed
    identify(checkpoint) -> ...         the network, its options, tensors by refnet's names
    save(path, network, options, ...)   safetensors that say what they are

One file per format; `pickle_machine.py` is why a PyTorch file cannot run code here.
"""

from refnet.checkpoints.identify import identify
from refnet.checkpoints.reader import FORMATS, Checkpoint, read
from refnet.checkpoints.saved import save

__all__ = ["FORMATS", "Checkpoint", "identify", "read", "save"]
