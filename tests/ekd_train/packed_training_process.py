"""A process that trains on packed images with two loader processes, and kills itself before a step.

`python packed_training_process.py IMAGES STORE STEP`: a hash of the weights is printed at the end; a STEP
that never comes lets it end.
"""

import hashlib
import os
import signal
import sys
from pathlib import Path

import torch
from training_runs import label_run

from ekd_train.data import load_dataset
from ekd_train.data.tensors import place
from ekd_train.persistence.checkpoint import Checkpoints
from ekd_train.settings import DataSettings
from ekd_train.training.batches import Batches
from ekd_train.training.loop import train
from ekd_train.training.reporter import Silent
from orchestrator.storage import LocalStorage


def main(images: str, store: str, last: int) -> None:
    torch.set_num_threads(1)
    whole = Batches.parts

    def parts(self, step, rows):
        if step == last:
            os.kill(os.getpid(), signal.SIGKILL)
        return whole(self, step, rows)

    Batches.parts = parts
    settings = DataSettings(
        name="image_folder", root=images, image_size=8, pack="always", validation_size=6, test_size=4
    )
    data = place(load_dataset(settings), torch.device("cpu"), loader_processes=2).training
    run = label_run(batch_size=8, epochs=3)
    checkpoints = Checkpoints(LocalStorage(Path(store)), "c", "i", keep=1)
    network = train(run, data, checkpoints=checkpoints, reporter=Silent()).network
    digest = hashlib.sha256()
    for tensor in network.state_dict().values():
        digest.update(tensor.numpy().tobytes())
    print(digest.hexdigest())


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
