"""From an image to boxes: heads that decode outputs, suppression, tiles, and the detector that joins them."""
