"""In which numbers a model computes, and the files that each kind stands in.

Nothing but the standard library is imported here: archives are built without torch's companions.
"""

from pathlib import Path
from types import MappingProxyType

# A run's or release's TorchScript and the configuration that it is served with. int8 is what is
# served by default: for one tile it takes a fourth to a sixth (baseline) and a tenth (ResNet-18) of
# the time of frozen fp32 TorchScript.
FILES = MappingProxyType(
    {
        "fp32": ("model.pt", "model-config.yaml"),
        "int8": ("model-int8.pt", "model-config-int8.yaml"),
    }
)
INT8_MAY_LOSE = 0.001  # of accuracy and of ECE, against fp32


def has_int8(folder: Path) -> bool:
    """Whether a run or release has an int8 file beside that in fp32."""
    return (folder / FILES["int8"][0]).is_file()
