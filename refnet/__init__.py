"""Small face networks of the edge world on any CPU, without PyTorch."""
