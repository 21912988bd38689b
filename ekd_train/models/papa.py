"""Networks that are trained side by side and pulled toward their mean (PAPA)."""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ekd_train.models.member_layers import rows
from ekd_train.models.subnetworks import Subnetworks
from ekd_train.models.synchronised_batch_norm import from_synchronised_batch_norm


class Papa(Subnetworks):
    """Whole networks of one architecture, each with its own weights, that are averaged in the end.

    PopulAtion Parameter Averaging (Jolicoeur-Martineau, Gervais, Fatras, Zhang, Lacoste-Julien, TMLR 2024,
    arXiv 2304.03094, algorithm 1): before every `every`-th step each parameter becomes
    `(1 - rate) θ_m + rate mean_j θ_j`. Here all networks see the same images in the same order; they part
    because they start apart. Of statistics of BatchNorm each keeps its own; the average has their mean.

    Args:
        networks: alike but for their weights; taken over.
        every: steps of the optimiser from one pull to the next.
        rate: of the way to the mean, in [0, 1].

    Raises `ValueError` where there is no network.
    """

    steps: Tensor
    """Steps begun so far; a buffer, so that a continued run pulls when it would have."""

    def __init__(self, networks: Sequence[nn.Module], every: int = 10, rate: float = 0.01) -> None:
        super().__init__()
        if not networks:
            raise ValueError("at least one network is needed")
        self.networks = nn.ModuleList(networks)
        self.num_members = len(networks)
        self.every, self.rate = every, rate
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, images: Tensor, members: Sequence[int] | None = None) -> Tensor:
        """Logits `(s, b, c)`; see `Subnetworks.forward`."""
        return torch.stack([self.networks[member](images) for member in self.chosen(members)])

    def begin_step(self) -> None:
        """Before the gradients of a step of the optimiser: count it, and pull when due."""
        # By nothing where it is not due: to ask the device would cost a wait in every step.
        self.pull((self.steps > 0) & (self.steps % self.every == 0))
        self.steps += 1

    @torch.no_grad()
    def pull(self, due: Tensor) -> None:
        """Move every network by `rate` times `due` (a scalar) toward their mean, which stays where it is."""
        for together in zip(*(network.parameters() for network in self.networks), strict=True):
            mean = torch.stack(together).mean(0)
            for parameter in together:
                parameter.lerp_(mean, self.rate * due.to(parameter.dtype))

    @torch.no_grad()
    def averaged(self, weights: Tensor | None = None) -> nn.Module:
        """The plain network of the mean weights and statistics; this module is left alone."""
        averaged = from_synchronised_batch_norm(copy.deepcopy(self.networks[0]))
        states = [network.state_dict() for network in self.networks]
        for name, tensor in averaged.state_dict().items():
            if tensor.is_floating_point():  # the rest counts batches, which is the same everywhere
                tensor.copy_(rows(torch.stack([state[name] for state in states]), weights)[0])
        return averaged
