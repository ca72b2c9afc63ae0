"""What training and evaluation need, in NumPy: losses, target assignment, metrics, annotations."""
