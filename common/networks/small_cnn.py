"""A small convolutional network for drawn images of 64x64 pixels (easy-VQA): four layers, last map 8x8x96."""

from torch import Tensor, nn


class SmallCnn(nn.Module):
    """(B, 3, 64, 64) -> (B, 96, 8, 8) after a ReLU; any other size gives a map an eighth of it."""

    channels = 96

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 24, 48, 96, self.channels)
        layers: list[nn.Module] = []
        for number, (before, after) in enumerate(zip(widths, widths[1:], strict=False)):
            layers += [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
            if number < 3:
                layers.append(nn.MaxPool2d(2))
        self.body = nn.Sequential(*layers)

    def forward_features(self, images: Tensor) -> Tensor:
        return self.body(images)

    forward = forward_features
