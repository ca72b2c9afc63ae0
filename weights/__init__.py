"""Released weights, a model card beside each. Read them with `importlib.resources.files("refnet.weights")`."""
