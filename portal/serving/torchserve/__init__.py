"""TorchServe 0.12: nothing else knows its HTTP dialect."""
