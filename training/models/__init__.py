"""The architectures, and the weights that they start from."""
