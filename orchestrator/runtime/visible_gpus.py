"""Which GPUs a worker sees. It forms its process group itself (`ekd_train.workers.worker`)."""

from dataclasses import dataclass

from ray.train.backend import Backend, BackendConfig


class _AllOfTheNode(Backend):
    share_cuda_visible_devices = True


@dataclass
class VisibleGpus(BackendConfig):
    """A worker sees the GPUs of all workers on its node, which NCCL needs to copy between them directly."""

    @property
    def backend_cls(self) -> type[Backend]:
        """The class that Ray Train asks."""
        return _AllOfTheNode
