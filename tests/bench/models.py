"""The released models as every peer wants them: eager, ONNX, ONNX int8; made once, in a folder."""

import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import Tensor, nn

from handlers.contract.spec import ModelSpec
from handlers.vision import normalize
from training.config import config_from_dict
from training.dataset.eurosat import Tiles
from training.dataset.examples import load_examples
from training.dataset.splits import load_split
from training.inference import load_exported
from training.models.registry import build_model
from training.quantize import calibration_names
from training.runs import has_int8, training_facts

CALIBRATION = 256  # tiles for ONNX Runtime's quantiser; of the list that ours was calibrated on


@dataclass(frozen=True)
class Subject:
    """A model under test.

    Attributes:
        name: ``baseline`` or ``resnet18``.
        folder: the run or release.
        spec: of its int8 file.
        eager: with the weights of its TorchScript, batch norms as identities behind them.
    """

    name: str
    folder: Path
    spec: ModelSpec
    eager: nn.Module


def find_subjects(folders: list[Path]) -> tuple[list[Subject], list[str]]:
    """The folders that can be measured, and a sentence on each that cannot."""
    subjects, remarks = [], []
    for folder in folders:
        name = folder.name.partition("-")[0]
        if not has_int8(folder):
            remarks.append(f"{folder.name} has no int8 file and was left out: export it again.")
        elif name not in {"baseline", "resnet18"}:
            remarks.append(f"{folder.name} was left out: nothing is promised of it.")
        else:
            _, spec = load_exported(folder, "int8")
            subjects.append(Subject(name, folder, spec, lift(folder)))
    return subjects, remarks


def lift(folder: Path) -> nn.Module:
    """The eager model of a release, which holds frozen TorchScript alone.

    Raises:
        ValueError: its answers are not those of the TorchScript.
    """
    frozen, spec = load_exported(folder)
    values = {
        node.output().debugName(): node.t("value")
        for node in frozen.graph.nodes()
        if node.kind() == "prim::Constant"
        and node.hasAttribute("value")
        and node.kindOf("value") == "t"
    }
    layers: dict[str, list[tuple[Tensor, Tensor]]] = {"aten::conv2d": [], "aten::linear": []}
    for node in frozen.graph.nodes():
        if node.kind() in layers:
            _, *names = (value.debugName() for value in node.inputs())
            layers[node.kind()].append((values[names[0]], values[names[1]]))
    config: dict[str, Any] = training_facts(folder)["config"]
    model = build_model(config_from_dict(config).model, len(spec.labels))
    modules = list(model.modules())
    norms = [module for module in modules if isinstance(module, nn.BatchNorm2d)]
    convolutions = [module for module in modules if isinstance(module, nn.Conv2d)]
    linears = [module for module in modules if isinstance(module, nn.Linear)]
    with torch.no_grad():
        for module, norm, (weight, bias) in zip(
            convolutions, norms, layers["aten::conv2d"], strict=True
        ):
            module.weight.copy_(weight)
            norm.weight.fill_(1)
            norm.bias.copy_(bias)
            if norm.running_var is not None:
                norm.running_var.fill_(1 - norm.eps)
        for linear, (weight, bias) in zip(linears, layers["aten::linear"], strict=True):
            linear.weight.copy_(weight)
            linear.bias.copy_(bias)
        model.eval()
        images = torch.randn(4, 3, spec.image_size, spec.image_size)
        if not torch.allclose(model(images), frozen(images), atol=1e-3):
            raise ValueError(f"{folder}: its TorchScript is not the architecture that it names")
    return model


class _Reader(CalibrationDataReader):
    def __init__(self, images: Tensor) -> None:
        self._batches = iter(images.split(1))

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self._batches, None)
        return None if batch is None else {"images": batch.contiguous().numpy()}


def write_plain(subject: Subject, out: Path) -> None:
    """Write ``plain.pt``, scripted fp32 as a usual handler has it."""
    out.mkdir(parents=True, exist_ok=True)
    torch.jit.script(subject.eager).save(str(out / "plain.pt"))


def write_onnx(subject: Subject, tiles: Tiles, out: Path) -> None:
    """Write ``fp32.onnx``, ``int8.onnx`` and ``subject.json``, which says what they are of."""
    out.mkdir(parents=True, exist_ok=True)
    spec = subject.spec
    image = torch.zeros(2, 3, spec.image_size, spec.image_size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns of torch's own future
        torch.onnx.export(
            subject.eager,
            (image,),
            str(out / "exported.onnx"),
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=64)},),
            dynamo=True,
            external_data=False,
            verbose=False,
        )
        quant_pre_process(str(out / "exported.onnx"), str(out / "fp32.onnx"))
        config: dict[str, Any] = training_facts(subject.folder)["config"]
        train = load_split(config["split"], tiles).train
        names = calibration_names(train, config["seed"])[:CALIBRATION]
        images = normalize(load_examples(tiles, names, spec).pixels, spec)
        quantize_static(
            str(out / "fp32.onnx"),
            str(out / "int8.onnx"),
            _Reader(images),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
        )
    onnx.checker.check_model(str(out / "int8.onnx"))
    described = {"folder": str(subject.folder.resolve()), "spec": spec.to_dict()}
    (out / "subject.json").write_text(json.dumps(described))
