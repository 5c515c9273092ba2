"""Starts, watches and ends the product: TorchServe and the portal in front of it."""


class CannotServe(Exception):
    """The product cannot be started or go on; the message is one sentence for its user."""
