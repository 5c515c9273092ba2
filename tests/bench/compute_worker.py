"""One process of the compute benchmark: a runtime on one model, with one number of threads.

    python -m tests.bench.compute_worker FOLDER THREADS RUNTIME

FOLDER is what ``tests.bench.models.write_onnx`` wrote, RUNTIME one of ``compute.RUNTIMES``. It
writes the line ``ready``, and for each line that it reads then a round as JSON: how the model runs
-> batch -> median in ms. With one thread the process is pinned to one core, or runtimes that spread
over both would not be compared alike.
"""

import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

# Before any runtime is imported, as their pools are made then.
THREADS = int(sys.argv[2])
os.environ["OMP_NUM_THREADS"] = str(THREADS)
if THREADS == 1:
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})

import numpy as np  # noqa: E402

from handlers.contract.spec import ModelSpec  # noqa: E402

Run = Callable[[], object]
BATCHES = (1, 32)
SECONDS = 0.25  # for one runtime, one batch size, one round


def torch_runs(release: Path, pixels: np.ndarray) -> dict[str, Run]:
    """TorchScript and eager; images lie in memory as the handler's ``normalize`` leaves them."""
    import torch

    from handlers.model import fuse_layers
    from tests.bench.models import lift
    from training.inference import load_exported

    torch.set_num_threads(THREADS)
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    eager = lift(release)
    fp32, _ = load_exported(release)
    fuse_layers(fp32, images)
    int8, _ = load_exported(release, "int8")
    models = {
        "ours: int8 TorchScript": int8,
        "ours: fp32 TorchScript, layers fused": fp32,
        "torch.jit.freeze(script)": torch.jit.freeze(torch.jit.script(eager)),
        "eager": eager,
    }
    # Channels first, as a usual handler's ToTensor leaves them.
    usual = images.contiguous()
    return {
        name: partial(model, images if name.startswith("ours") else usual)
        for name, model in models.items()
    }


def onnx_runs(folder: Path, images: np.ndarray) -> dict[str, Run]:
    """ONNX Runtime, fp32 and int8."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    options.inter_op_num_threads = 1
    runs: dict[str, Run] = {}
    for precision in ("fp32", "int8"):
        session = onnxruntime.InferenceSession(
            str(folder / f"{precision}.onnx"), options, providers=["CPUExecutionProvider"]
        )
        runs[f"ONNX Runtime {precision}"] = partial(session.run, None, {"images": images})
    return runs


def openvino_runs(folder: Path, images: np.ndarray) -> dict[str, Run]:
    """OpenVINO on the same two ONNX files, compiled for this very batch."""
    import openvino

    runs: dict[str, Run] = {}
    core = openvino.Core()
    for precision in ("fp32", "int8"):
        model = core.read_model(str(folder / f"{precision}.onnx"))
        model.reshape(list(images.shape))
        compiled = core.compile_model(
            model,
            "CPU",
            {
                "INFERENCE_NUM_THREADS": THREADS,
                "NUM_STREAMS": 1,
                "PERFORMANCE_HINT": "LATENCY",
                "INFERENCE_PRECISION_HINT": "f32",  # bf16 would be another answer
            },
        )
        request = compiled.create_infer_request()
        runs[f"OpenVINO {precision}"] = partial(request.infer, [images])
    return runs


def runs_of(runtime: str, folder: Path, batch: int) -> dict[str, Run]:
    """The ways in which a runtime runs the model on a batch of random images, warmed up."""
    described = json.loads((folder / "subject.json").read_text())
    spec = ModelSpec.from_dict(described["spec"])
    shape = (batch, spec.image_size, spec.image_size, 3)
    pixels = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    images = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))
    if runtime == "torch":
        runs = torch_runs(Path(described["folder"]), pixels)
    elif runtime == "onnxruntime":
        runs = onnx_runs(folder, images)
    else:
        runs = openvino_runs(folder, images)
    for run in runs.values():
        for _ in range(3):
            run()
    return runs


def median_ms(run: Run, seconds: float) -> float:
    """Median time of one call; at least five calls."""
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 5 or time.perf_counter() < end:
        started = time.perf_counter()
        run()
        times.append(1000 * (time.perf_counter() - started))
    return statistics.median(times)


def main() -> None:
    """Measure as long as there are lines to read."""
    folder, runtime = Path(sys.argv[1]), sys.argv[3]
    with ExitStack() as stack:
        if runtime == "torch":
            import torch

            stack.enter_context(torch.inference_mode())
        runs = {batch: runs_of(runtime, folder, batch) for batch in BATCHES}
        _say("ready")
        for _ in sys.stdin:
            found: dict[str, dict[int, float]] = {}
            for batch, some in runs.items():
                for name, run in some.items():
                    found.setdefault(name, {})[batch] = median_ms(run, SECONDS)
            _say(json.dumps(found))


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
