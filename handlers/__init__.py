"""Preprocessing, answers and the TorchServe handler: the part that travels inside each archive."""
