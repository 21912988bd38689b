"""The random choices: fair, reproducible and the same for any number of workers."""

from collections import Counter

import pytest
import torch
from networks_under_watch import images

from ekd_train.perturbations import draw


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_every_ordered_pair_of_different_teachers_is_as_likely():
    source = generator()
    pairs = Counter(draw("tdiv", source, batch_size=8, num_teachers=4).teachers for _ in range(2400))
    assert set(pairs) == {(i, j) for i in range(4) for j in range(4) if i != j}
    assert all(140 < count < 260 for count in pairs.values())  # 200 expected, standard deviation 13.5


def test_ods_draws_one_teacher_and_gaussian_none():
    drawn = [draw("ods", generator(seed), batch_size=8, num_teachers=3).teachers for seed in range(30)]
    assert set(drawn) == {(0,), (1,), (2,)}
    assert draw("gaussian", generator(), batch_size=8, num_teachers=3).teachers == ()


def test_two_rows_of_a_draw_are_rows_of_the_whole():
    choices, like = draw("gaussian", generator(), batch_size=10, num_teachers=0), images()
    shape = torch.Size([3])
    assert torch.equal(choices.rows(2, 9).normal(shape, like), choices.normal(shape, like)[2:9])
    assert torch.equal(choices.rows(2, 9).rows(1, 3).uniform(shape, like), choices.uniform(shape, like)[3:5])
    assert choices.rows(4, 4).normal(shape, like).shape == (0, 3)


@pytest.mark.parametrize(("start", "stop"), [(-1, 2), (3, 2), (0, 11)])
def test_rows_outside_the_draw_are_refused(start, stop):
    with pytest.raises(ValueError, match="not within 10 images"):
        draw("gaussian", generator(), batch_size=10, num_teachers=0).rows(start, stop)


def test_the_generator_advances_alike_whatever_the_batch_size():
    small, large = generator(), generator()
    draw("tdiv_sdiv", small, batch_size=1, num_teachers=4)
    draw("tdiv_sdiv", large, batch_size=1000, num_teachers=4)
    assert torch.equal(small.get_state(), large.get_state())


def test_values_have_their_named_distributions():
    choices, like = draw("gaussian", generator(), batch_size=2000, num_teachers=0), images()
    normal = choices.normal(torch.Size([50]), like)
    uniform = choices.uniform(torch.Size([50]), like)
    assert normal.mean().item() == pytest.approx(0, abs=0.02)
    assert normal.std().item() == pytest.approx(1, abs=0.02)
    assert (uniform.min().item(), uniform.max().item()) == pytest.approx((-1, 1), abs=1e-3)
    assert uniform.square().mean().item() == pytest.approx(1 / 3, abs=0.01)
