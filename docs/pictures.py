"""The pictures of the pages that are drawn: `python docs/pictures.py` writes them to docs/assets."""

from collections.abc import Callable, Iterator
from pathlib import Path

import matplotlib
import torch
from matplotlib import pyplot
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ekd_train.data import load_dataset
from ekd_train.models import build_model
from ekd_train.models.batch_ensemble import average_members, to_batch_ensemble
from ekd_train.objectives import member_kd
from ekd_train.perturbations import perturb
from ekd_train.settings import DataSettings

ASSETS = Path(__file__).parent / "assets"
TEACHER, STUDENT, RESULT = "#5e7ce2", "#e29a3b", "#2f9e6e"


def overview() -> None:
    """Images, teachers, members, their average."""
    figure, axes = pyplot.subplots(figsize=(9, 2.9))
    axes.set(xlim=(0, 9), ylim=(0, 2.9))
    axes.axis("off")

    def box(x: float, y: float, text: str, colour: str, width: float = 1.5) -> None:
        shape = FancyBboxPatch(
            (x, y), width, 0.5, boxstyle="round,pad=0.05", facecolor=colour, edgecolor="none"
        )
        axes.add_patch(shape)
        axes.text(x + width / 2, y + 0.25, text, ha="center", va="center", color="white", fontsize=10)

    def arrow(start: tuple[float, float], end: tuple[float, float]) -> None:
        axes.annotate("", end, start, arrowprops={"arrowstyle": "->", "color": "#777777"})

    box(0.1, 1.1, "images", "#777777", 1.1)
    for index in range(3):
        y = 2.1 - index
        box(2.1, y, f"teacher {index}", TEACHER)
        box(4.6, y, f"member {index}", STUDENT)
        arrow((1.3, 1.35), (2.02, y + 0.25))
        arrow((3.68, y + 0.25), (4.52, y + 0.25))
        arrow((6.18, y + 0.25), (7.02, 1.35))
    axes.text(4.1, 2.43, "teaches", ha="center", fontsize=8, color="#777777")
    axes.text(5.35, 2.75, "one student: members share weights", ha="center", fontsize=8, color="#777777")
    box(7.1, 1.1, "one network", RESULT, 1.7)
    axes.text(
        7.95,
        0.85,
        "weights averaged, measured,\nregistered",
        ha="center",
        va="top",
        fontsize=8,
        color="#777777",
    )
    save(figure, "overview")


def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """200 training images (n, 1, 8, 8) in [0, 1] and labels, then 500 others and theirs."""
    data = load_dataset(DataSettings(train_size=200, validation_size=300, test_size=500))
    return tuple(
        found
        for split in (data.train, data.test)
        for found in (torch.from_numpy(split.images).float() / 255, torch.from_numpy(split.labels).long())
    )


def trained(
    network: nn.Module, images: Tensor, loss: Callable[[Tensor], Tensor], epochs: int
) -> Iterator[int]:
    """Train `network` by `loss` of the indices of a batch; yields after each epoch, from 1 on."""
    optimiser = torch.optim.SGD(network.parameters(), 0.05, momentum=0.9, weight_decay=5e-4)
    for epoch in range(1, epochs + 1):
        network.train()
        for rows in torch.randperm(len(images)).split(50):
            optimiser.zero_grad()
            loss(rows).backward()
            optimiser.step()
        network.eval()
        yield epoch


def small() -> nn.Module:
    """A network for 8x8 images."""
    return build_model("wide_resnet", depth=10, stem_channels=8, num_classes=10, in_channels=1, image_size=8)


def members(images: Tensor, labels: Tensor, test: Tensor, truth: Tensor, teachers: list[nn.Module]) -> None:
    """How far a LatentBE student's members part while they learn, and what their average is worth."""
    with torch.no_grad():
        targets = torch.stack([teacher(images) for teacher in teachers])  # (k, b, c)
    student = to_batch_ensemble(small(), len(teachers))
    found = []

    def loss(rows: Tensor) -> Tensor:
        return member_kd(student(images[rows]), targets[:, rows], temperature=4.0)

    for _ in trained(student, images, loss, 40):
        with torch.no_grad():
            logits, averaged = student(test), average_members(student).eval()(test)  # (s, b, c), (b, c)
        votes = logits.argmax(2)
        agree = (votes == votes[:1]).all(0).double().mean()
        right = [(one.argmax(-1) == truth).double().mean() for one in (logits.softmax(2).mean(0), averaged)]
        found.append([100 * float(value) for value in (1 - agree, *right)])
    figure, (left, middle) = pyplot.subplots(1, 2, figsize=(9, 2.8))
    parting, together, average = zip(*found, strict=True)
    epochs = range(1, len(found) + 1)
    left.plot(epochs, parting, color=STUDENT)
    left.set(title="images on which members disagree, %", xlabel="epoch", ylim=(0, None))
    middle.plot(epochs, together, color=STUDENT, label="members as an ensemble: 3 networks' cost")
    middle.plot(epochs, average, color=RESULT, label="their average: one network's cost", linestyle="--")
    middle.set(title="right on 500 other images, %", xlabel="epoch")
    middle.legend(frameon=False, fontsize=8)
    save(figure, "members")


def perturbations(images: Tensor, teachers: list[nn.Module]) -> None:
    """An image, what two perturbations add to it, and how far two teachers then differ."""
    batch = images[:100]
    figure, axes = pyplot.subplots(1, 4, figsize=(9, 2.4), width_ratios=(1, 1, 1, 1.6))
    differences = {}
    for axis, kind in zip(axes, ("none", "conf_ods", "tdiv"), strict=False):
        seed = torch.Generator().manual_seed(1)
        shown = perturb(
            batch, kind=kind, strength=8.0, teachers=teachers, student=None, temperature=1.0, generator=seed
        )
        with torch.no_grad():
            first, second = (teacher(shown).log_softmax(1) for teacher in teachers[:2])
        differences[kind] = float((first.exp() * (first - second)).sum(1).mean())
        axis.imshow(shown[0, 0], cmap="gray", vmin=0, vmax=1)
        axis.set(title="image" if kind == "none" else kind, xticks=[], yticks=[])
    axes[3].barh(["image", "conf_ods", "tdiv"][::-1], list(differences.values())[::-1], color=TEACHER)
    axes[3].set(xlabel="KL between two teachers, nats")
    save(figure, "perturbations")


def save(figure: Figure, name: str) -> None:
    """As SVG, the same bytes each time."""
    figure.tight_layout()
    figure.savefig(ASSETS / f"{name}.svg", metadata={"Date": None})


if __name__ == "__main__":
    matplotlib.rcParams["svg.hashsalt"] = "ekd"
    overview()
    torch.manual_seed(0)
    images, labels, test, truth = digits()
    teachers = [small() for _ in range(3)]
    for teacher in teachers:
        for _ in trained(
            teacher, images, lambda rows, own=teacher: cross_entropy(own(images[rows]), labels[rows]), 30
        ):
            pass
    perturbations(images, teachers)
    members(images, labels, test, truth, teachers)
