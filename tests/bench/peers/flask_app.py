"""Flask with the model in its own process, for gunicorn and waitress."""

from typing import Any

from flask import Flask, request

from tests.bench.peers.pipeline import Pipeline

app = Flask(__name__)
pipeline = Pipeline()


@app.post("/predict")
def predict() -> dict[str, Any]:
    """One image, one answer."""
    (answer,) = pipeline([request.get_data()])
    return answer
