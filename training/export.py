"""Checkpoint -> TorchScript and model-config.yaml, in fp32 and int8: what TorchServe loads.

    python -m training.export training/runs/baseline-1.0

The temperature, the threshold of doubt and the limits beyond which a picture is unlike training are
fitted here, on the validation split and for each of the two files, so that evaluation measures
exactly what is served.
"""

import argparse
import dataclasses
import json
import logging
import math
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Generator, Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from handlers.contract.spec import ModelSpec
from handlers.model import fuse_layers, load_model
from handlers.vision import normalize, to_probabilities
from training.calibration import choose_threshold, fit_temperature
from training.config import AugmentConfig, BadConfig, TrainConfig, config_from_dict, describe_config
from training.dataset.augment import augment, mix
from training.dataset.eurosat import BadData, Tiles, find_tiles
from training.dataset.examples import Examples, load_examples
from training.dataset.splits import Split, load_split
from training.doubt import fit_colours, fit_doubt, give_distances
from training.inference import BATCH, predict, refuse_differences
from training.models.registry import build_model
from training.quantize import CannotQuantize, calibration_names, quantize
from training.runs import FILES, BadExport, load_best, run_command

logger = logging.getLogger(__name__)

# How TorchServe runs a model: kept here alone, written into every model-config.yaml. Tiles/s of
# ResNet-18 at 96 px on 2 cores at 32 clients: 1 worker 348, 2 with batches of 8, 16, 32 632, 650,
# 700. With jemalloc (deploy/allocator.py) a delay of 2 ms gives no more than 1 ms (791), and takes
# 2 ms from each lone client.
SERVING: dict[str, Any] = {
    "minWorkers": 2,
    "maxWorkers": 2,
    "batchSize": 16,
    "maxBatchDelay": 1,  # ms; 0 and absent both mean 100 to TorchServe 0.12
    "responseTimeout": 8,  # s; a worker that takes longer is killed; below the portal's deadline
    "startupTimeout": 120,  # s
}
# Batches of training tiles, changed as in training, from which int8 learns to answer as fp32 does.
LESSONS = 80


def export(run: Path, tiles: Tiles) -> None:
    """Write ``model.pt``, ``model-int8.pt``, their configurations and ``training.json``.

    An architecture that has no int8 form gets ``model.pt`` alone.

    Raises:
        BadExport: no checkpoint, or TorchScript's answers differ from the model's own.
    """
    checkpoint = load_best(run)
    config = config_from_dict(checkpoint["config"])
    spec = ModelSpec.from_dict(checkpoint["spec"])
    model = build_model(config.model, len(spec.labels))
    model.load_state_dict(checkpoint["weights"])
    model.eval()

    split = load_split(config.data.split, tiles, run)
    val = load_examples(tiles, split.val, spec, "validation tiles")
    spec = _with_colours(spec, tiles, split)
    expected = _write(run, "fp32", model, spec, val)
    kept = ("epoch", "val_accuracy", "git_commit", "weights_origin")
    facts = {
        "config": describe_config(config),
        **{key: checkpoint[key] for key in kept},
        "teacher_origin": checkpoint.get("teacher_origin", ""),
        "history": json.loads((run / "history.json").read_text()),
    }
    (run / "training.json").write_text(json.dumps(facts, indent=1))
    export_int8(run, model, config, spec, tiles, val, expected)


def export_int8(
    run: Path, model: nn.Module, config: TrainConfig, spec: ModelSpec, tiles: Tiles,
    val: Examples, expected: Tensor,
) -> None:  # fmt: skip
    """Write ``model-int8.pt`` and its configuration; none where the model has no int8 form.

    Args:
        model: in fp32 and evaluation mode.
        val: the validation tiles.
        expected: the model's logits of them, float32 (N, C).
    """
    split = load_split(config.data.split, tiles, run)
    names = split.train
    some = calibration_names(names, config.seed)
    calibration = load_examples(tiles, some, spec, "calibration tiles").pixels.split(BATCH)
    lessons = _lessons(tiles, names, config.augment, config.seed, spec)
    try:
        int8 = quantize(model, spec, (normalize(part, spec) for part in calibration), lessons)
    except CannotQuantize as problem:
        logger.info("no int8 file: %s", problem)
        for name in FILES["int8"]:
            (run / name).unlink(missing_ok=True)  # of an earlier export
    else:
        logits = _write(run, "int8", int8, _with_colours(spec, tiles, split), val)
        logger.info(
            "int8: divergence from fp32 %.1e, %d of %d validation tiles answered otherwise",
            functional.kl_div(
                functional.log_softmax(logits, dim=1), functional.log_softmax(expected, dim=1),
                reduction="batchmean", log_target=True,
            ).item(),
            int((logits.argmax(1) != expected.argmax(1)).sum()), len(val),
        )  # fmt: skip


def _lessons(
    tiles: Tiles, names: tuple[str, ...], config: AugmentConfig, seed: int, spec: ModelSpec
) -> Iterator[Tensor]:
    """Random batches of training tiles, changed as in training, every other one mixed.

    The model is sure of the tiles that it learned; where those are mixed it has doubts to pass on.

    Args:
        names: of all training tiles, N of them; decoded (2 GB at 192 px) with the first lesson.

    Returns:
        float32 (``BATCH``, 3, S, S), normalised; ``LESSONS`` of them, or about four times N tiles.
    """
    pixels = load_examples(tiles, names, spec, "training tiles").pixels
    changes = dataclasses.replace(config, cutmix=1.0, mixup=0.0, mix_probability=0.5)
    generator = Generator().manual_seed(seed)
    count = min(LESSONS, math.ceil(4 * len(pixels) / BATCH))
    for _ in tqdm(range(count), desc="int8 lessons", unit="batch"):
        chosen = torch.randint(len(pixels), (BATCH,), generator=generator)
        images = normalize(augment(pixels[chosen], changes, generator), spec)
        yield mix(images, torch.zeros(BATCH, len(spec.labels)), changes, generator)[0]


def _with_colours(spec: ModelSpec, tiles: Tiles, split: Split) -> ModelSpec:
    """The spec with what tiles alone tell of doubt; they are as they come, of 64 px."""
    if spec.doubt is not None:
        return spec
    learned = tiles.decode(split.train, "training tiles")
    return dataclasses.replace(spec, doubt=fit_colours(learned, tiles.decode(split.val)))


def _write(run: Path, precision: str, model: nn.Module, spec: ModelSpec, val: Examples) -> Tensor:
    """Write a model and its configuration, with temperature, threshold and doubt fitted for it.

    Args:
        spec: of ``_with_colours``.

    Returns:
        Its logits of the validation tiles, float32 (N, C).

    Raises:
        BadExport: TorchScript's answers differ from the model's own.
    """
    colours = spec.doubt
    assert colours is not None
    judged, limit = give_distances(model, spec, val)
    scripted = to_torchscript(judged)
    refuse_differences(model, scripted, normalize(val.pixels[:BATCH], spec))
    file, config_file = (run / name for name in FILES[precision])
    # First under another name: what is loaded back is what the logits come from.
    partial = file.with_name(f"{file.name}.part")
    torch.jit.save(scripted, str(partial))
    forget_sources(partial)
    served = load_model(partial)
    logits = predict(served, val.pixels, spec, f"calibrate {precision}")
    spec = dataclasses.replace(spec, temperature=fit_temperature(logits, val.targets))
    probabilities = to_probabilities(logits, spec)
    threshold = choose_threshold(probabilities, val.targets)
    doubt = fit_doubt(colours, limit, probabilities, val.targets)
    spec = dataclasses.replace(spec, threshold=threshold, doubt=doubt)
    fuse = precision == "fp32" and _can_be_fused(partial, spec.image_size)
    content = SERVING | ({"fuse_layers": True} if fuse else {}) | {"spec": spec.to_dict()}
    # None: lists of numbers stand in one line.
    text = yaml.safe_dump(content, sort_keys=False, default_flow_style=None, width=100)
    config_file.write_text(text)
    partial.replace(file)
    logger.info(
        "%s: %.2f MB, temperature %.3f, uncertain below %.3f",
        file, file.stat().st_size / 1e6, spec.temperature, threshold,
    )  # fmt: skip
    return logits


def to_torchscript(model: nn.Module) -> torch.jit.ScriptModule:
    """Script and freeze a model in evaluation mode; batch norms are folded into convolutions.

    What ``handlers.model.load_model`` tells an int8 model of the CPU can still be set.
    """
    told = [
        f"{name}.matrix_units".lstrip(".")
        for name, part in model.named_modules()
        if getattr(part, "narrow", None) is not None
    ]
    return torch.jit.freeze(torch.jit.script(model.eval()), told)


def forget_sources(path: Path) -> None:
    """Drop torch's source positions, of use only in tracebacks: they name this machine's files."""
    slim = path.with_suffix(".slim")
    with zipfile.ZipFile(path) as saved, zipfile.ZipFile(slim, "w") as kept:
        for entry in saved.infolist():
            if not entry.filename.endswith(".debug_pkl"):
                kept.writestr(entry, saved.read(entry))
    slim.replace(path)


def _can_be_fused(file: Path, size: int) -> bool:
    """Whether ``fuse_layers`` can fuse the model; it cannot a ViT (torch 2.14)."""
    try:
        fuse_layers(load_model(file), torch.zeros(1, 3, size, size))
    except RuntimeError as problem:
        logger.info("layers are not fused: %s", str(problem).strip().partition("\n")[0])
        return False
    return True


def main() -> None:
    """Export the run named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="folder of a run")
    export(parser.parse_args().run, find_tiles())


if __name__ == "__main__":
    run_command(main, BadConfig, BadData, BadExport)
