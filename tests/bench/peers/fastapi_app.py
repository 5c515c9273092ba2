"""FastAPI on uvicorn: the raw image as body, the model called in a thread of the pool."""

from typing import Any

from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool

from tests.bench.peers.pipeline import Pipeline

app = FastAPI()
pipeline = Pipeline()


@app.post("/predict")
async def predict(request: Request) -> dict[str, Any]:
    """One image, one answer; the event loop stays free meanwhile."""
    (answer,) = await run_in_threadpool(pipeline, [await request.body()])
    return answer
