"""Small networks for tests, each with something that explanation methods get wrong elsewhere."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def seeded(build, seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build().eval()


class Plain(nn.Module):
    """Convolutions with in-place ReLUs straight behind them, pooling and one linear layer."""

    def __init__(self, channels: int = 6, classes: int = 5) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.MaxPool2d(2),
            nn.Conv2d(4, channels, 3, padding=1), nn.ReLU(inplace=True),
        )  # fmt: skip
        self.fc = nn.Linear(channels, classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.features(images).mean((-2, -1)))


class Functional(nn.Module):
    """ReLUs as functions, one module used twice, ReLU6, dropout and a head with a hidden layer."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 5, 3, padding=1)
        self.conv2 = nn.Conv2d(5, 5, 3, padding=1)
        self.conv3 = nn.Conv2d(5, 7, 3, stride=2, padding=1)
        self.act = nn.ReLU()
        self.drop = nn.Dropout(0.5)
        self.hidden = nn.Linear(7 * 16, 12)
        self.out = nn.Linear(12, classes)

    def forward(self, images: Tensor) -> Tensor:
        x = self.act(self.conv1(images))
        x = self.act(x + self.conv2(x))
        x = F.relu6(self.conv3(x) * 3)
        x = self.drop(F.adaptive_avg_pool2d(x, 4).flatten(1))
        return self.out(torch.relu_(self.hidden(x)))


class Smooth(nn.Module):
    """GELU where others have ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.act = nn.GELU()
        self.fc = nn.Linear(4, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.act(self.conv(images)).mean((-2, -1)))


class Recurrent(nn.Module):
    """An LSTM on top of the feature map, as captioners have; cuDNN will not run it backwards in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.lstm = nn.LSTM(4, 8, batch_first=True, dropout=0.3, num_layers=2)
        self.out = nn.Linear(8, 6)

    def forward(self, images: Tensor) -> Tensor:
        x = torch.relu(self.conv(images)).mean((-2, -1))
        hidden, _ = self.lstm(x[:, None].expand(-1, 3, -1))
        return self.out(hidden[:, -1])


class FrozenTrunk(nn.Module):
    """A trunk that turns gradients off itself."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.fc = nn.Linear(4, 3)

    def forward(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            x = torch.relu(self.conv(images))
            x = self.conv_out(x) if hasattr(self, "conv_out") else x
        return self.fc(x.mean((-2, -1)))
