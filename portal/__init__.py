"""The portal in front of TorchServe: predictions, reports, and the versions that are served.

``web`` is its only part that knows Flask; ``tests/contracts/test_imports.py`` says which part may
import which.
"""
