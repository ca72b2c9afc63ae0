"""From an image to boxes: decoding, non-maximum suppression, tiles, and the detector that joins them."""
