import time

import torch
from torch import nn

from ekd_train.latency import latency_setting, measure_latency


class Sleeps(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []

    def forward(self, images):
        self.seen.append(len(images))
        time.sleep(0.002)
        return images.flatten(1)


def test_it_is_the_time_of_one_forward_at_each_batch_size():
    network = Sleeps()
    measured = measure_latency(network, torch.zeros(2, 1, 4, 4), batches=(1, 5), seconds=0.0)
    assert set(network.seen) == {1, 5}
    assert set(measured) == {"1", "5"}
    assert all(ms >= 2 for ms in measured.values())


def test_the_setting_names_device_and_threads():
    setting = latency_setting(torch.device("cpu"))
    assert setting["device"] == "CPU"
    assert setting["threads"] == torch.get_num_threads()
