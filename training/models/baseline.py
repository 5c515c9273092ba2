"""The light baseline CNN."""

from torch import Tensor, nn


def _conv(channels_in: int, channels_out: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(inplace=True),
    )


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut: float (N, C, H, W) -> the same shape."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = _conv(channels, channels)
        self.second = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)
        )
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Float (N, C, H, W) -> the same shape."""
        return self.relu(self.second(self.first(x)) + x)


class BaselineCNN(nn.Module):
    """Three convolution stages, each halving the resolution and adding residual blocks.

    The first convolution halves at once: at 64 x 64 batch norm and ReLU wait for memory (a third of
    the images/s), and the same parameters two stages later learn more.
    """

    def __init__(
        self, classes: int, widths: tuple[int, ...], blocks: tuple[int, ...], dropout: float
    ) -> None:
        super().__init__()
        stages: list[nn.Module] = []
        channels, kernel = 3, 5
        for width, count in zip(widths, blocks, strict=True):
            stages.append(
                nn.Sequential(
                    _conv(channels, width, kernel, stride=2),
                    *(ResidualBlock(width) for _ in range(count)),
                )
            )
            channels, kernel = width, 3
        self.stages = nn.Sequential(*stages)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Float (N, 3, S, S) -> logits (N, C)."""
        x = self.stages(x)  # (N, widths[2], S/8, S/8)
        x = x.mean(dim=(2, 3))  # (N, widths[2])
        return self.head(self.dropout(x))
