import torch

from ekd_train.evaluation.mistakes import confident_mistakes


def test_the_most_confident_mistakes_come_first_and_equals_in_the_images_order():
    generator = torch.Generator().manual_seed(0)
    # Eighths: many are exactly as confident as another.
    probs = torch.randint(1, 8, (200, 3), generator=generator).double() / 8
    labels = torch.randint(0, 3, (200,), generator=generator)
    ranked = []
    for index, (row, label) in enumerate(zip(probs.tolist(), labels.tolist(), strict=True)):
        if row.index(max(row)) != label:
            ranked.append((-max(row), index))
    expected = [index for _, index in sorted(ranked)]
    assert confident_mistakes(*probs.max(-1), labels).tolist() == expected[:12]
    assert confident_mistakes(*probs.max(-1), labels, count=1000).tolist() == expected


def test_a_network_that_is_always_right_has_none():
    probs = torch.eye(4)
    assert confident_mistakes(*probs.max(-1), torch.arange(4)).shape == (0,)
