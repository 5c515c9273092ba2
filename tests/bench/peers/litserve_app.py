"""LitServe with batching and two workers; the port is the argument on the command line."""

import sys
from typing import Any

import litserve
from fastapi import Request

from tests.bench.peers.pipeline import Pipeline


class LandUse(litserve.LitAPI):
    """The form field ``file`` in, answer out: LitServe takes JSON and forms, no raw bodies."""

    def setup(self, device: str) -> None:
        """Load in each worker."""
        del device  # always the CPU
        self.pipeline = Pipeline(most=16)

    def decode_request(self, request: Request) -> bytes:
        """The uploaded file; what arrives here is the form of the request that is announced."""
        content: bytes = request["file"].file.read()
        return content

    def batch(self, inputs: list[bytes]) -> list[bytes]:
        """A list is batch enough."""
        return inputs

    def predict(self, x: list[bytes] | bytes) -> list[dict[str, Any]]:
        """A batch of images."""
        return self.pipeline(x if isinstance(x, list) else [x])

    def unbatch(self, output: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """One answer each."""
        return output

    def encode_response(self, output: dict[str, Any]) -> dict[str, Any]:
        """As it is."""
        return output


if __name__ == "__main__":
    server = litserve.LitServer(
        LandUse(max_batch_size=16, batch_timeout=0.002), accelerator="cpu", workers_per_device=2
    )
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False)
