"""Other people's formats: networks as ONNX, results as objects of pyarrow, pandas and supervision."""
