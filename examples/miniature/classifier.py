"""A small network that recognises digits, for the raters' judge and, apart from it, the scorer.

The two never share digits, widths or seeds. What is made of the answer is in `judge` and `scorer`.
"""

import torch
from torch import Tensor, nn


class DigitClassifier(nn.Module):
    """Three strided convolutions and one layer of features; images (n, 1, 32, 32) from 0 to 1."""

    def __init__(self, width: int, features: int):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, width, 5, stride=2, padding=2),
            nn.GELU(),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
            nn.GELU(),
            nn.Conv2d(2 * width, 2 * width, 3, stride=2, padding=1),
            nn.GELU(),
            nn.Flatten(),
            nn.Dropout(0.2),
            nn.Linear(2 * width * 16, features),
            nn.GELU(),
        )
        self.head = nn.Linear(features, 10)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the features (n, features) and the logits (n, 10)."""
        features = self.body(images)
        return features, self.head(features)


def train_classifier(
    model: DigitClassifier, images: Tensor, labels: Tensor, steps: int, seed: int
) -> None:
    """Train on real digits (n, 1, 32, 32), each time moved, turned and scaled a little."""
    torch.manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    model.train()
    for _ in range(steps):
        chosen = torch.randint(len(images), (64,))
        logits = model(moved(images[chosen]))[1]
        loss = nn.functional.cross_entropy(logits, labels[chosen], label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    model.eval()


def moved(images: Tensor) -> Tensor:
    """Shift by up to 2 pixels, turn by up to 8 degrees and scale by up to 8%."""
    n = len(images)
    angle = (torch.rand(n) * 2 - 1) * 0.14
    scale = 1 + (torch.rand(n) * 2 - 1) * 0.08
    shift = (torch.rand(n, 2) * 2 - 1) * 2 / 16
    cosine, sine = scale * torch.cos(angle), scale * torch.sin(angle)
    affine = torch.stack(
        [torch.stack([cosine, -sine, shift[:, 0]], 1), torch.stack([sine, cosine, shift[:, 1]], 1)],
        dim=1,
    )
    grid = nn.functional.affine_grid(affine, list(images.shape), align_corners=False)
    return nn.functional.grid_sample(images, grid, align_corners=False)
