"""The TorchServe handler that tutorials write: VisionHandler, torchvision's transforms, softmax."""

import io
from typing import Any

import torch
from PIL import Image
from torchvision import transforms
from ts.torch_handler.vision_handler import VisionHandler


class UsualHandler(VisionHandler):
    """Everything as the base class does it, but the transforms and the answer."""

    image_processing = transforms.Compose(
        [
            transforms.Resize((64, 64)),
            transforms.ToTensor(),
            transforms.Normalize((0.3444, 0.3803, 0.4078), (0.2027, 0.1369, 0.1156)),
        ]
    )

    def preprocess(self, data: list[dict[str, Any]]) -> torch.Tensor:
        """As VisionHandler's."""
        images = []
        for row in data:
            image = Image.open(io.BytesIO(row.get("data") or row.get("body") or b"")).convert("RGB")
            images.append(self.image_processing(image))
        return torch.stack(images).to(self.device)

    def postprocess(self, data: torch.Tensor) -> list[dict[str, float]]:
        """Class number to probability."""
        rows = torch.softmax(data, dim=1).tolist()
        return [{str(label): value for label, value in enumerate(row)} for row in rows]
