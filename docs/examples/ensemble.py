"""A stand-in for the ensemble that you have: three of torchvision's ResNet-18, trained with plain torch.

From the folder that has `docs`: python docs/examples/ensemble.py photographs
Writes member-0.pth, member-1.pth, member-2.pth: state dicts, as most training scripts leave them.
"""

import argparse

import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader
from torchvision import models, transforms
from torchvision.datasets import ImageFolder

SIZE = 32
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def loader(folder: str, *, shuffle: bool) -> DataLoader:
    """Batches of images (50, 3, 32, 32), normalised, and labels."""
    steps = [
        transforms.Resize(SIZE),
        transforms.CenterCrop(SIZE),
        transforms.ToTensor(),
        transforms.Normalize(MEAN, STD),
    ]
    return DataLoader(ImageFolder(folder, transforms.Compose(steps)), 50, shuffle=shuffle)


def train(folder: str, seed: int, epochs: int) -> torch.nn.Module:
    """One member, from scratch."""
    torch.manual_seed(seed)
    images = loader(f"{folder}/train", shuffle=True)
    network = models.resnet18(num_classes=len(images.dataset.classes))
    optimiser = torch.optim.SGD(network.parameters(), 0.05, momentum=0.9, nesterov=True, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 0.05, total_steps=epochs * len(images))
    for epoch in range(epochs):
        print(f"\rmember-{seed}: epoch {epoch + 1}/{epochs}", end="", flush=True)
        for batch, labels in images:
            loss = cross_entropy(network(batch), labels)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    return network.eval()


def main() -> None:
    """Train and save them; print each one's accuracy on the test photographs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder")
    parser.add_argument("--epochs", type=int, default=15)
    arguments = parser.parse_args()
    for seed in range(3):
        network = train(arguments.folder, seed, arguments.epochs)
        with torch.no_grad():
            right = [network(x).argmax(1) == y for x, y in loader(f"{arguments.folder}/test", shuffle=False)]
        torch.save(network.state_dict(), f"member-{seed}.pth")
        print(f"\rmember-{seed}.pth  {100 * torch.cat(right).double().mean():.1f} %   ")


if __name__ == "__main__":
    main()
