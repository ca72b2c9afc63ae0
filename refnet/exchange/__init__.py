"""Networks of other programs: ONNX in and out."""
