"""What a network sees: the receptive field in closed form, the effective one by gradient, and pictures of both."""
