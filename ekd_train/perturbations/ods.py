"""Output diversified sampling (ODS), and the variant that trusts confident images more (ConfODS)."""

from torch import Tensor

from ekd_train.objectives.soft_targets import tempered_log_probs
from ekd_train.perturbations.ascent import evaluation_mode, one_grey_level, pixel_gradient
from ekd_train.perturbations.draw import Draw
from ekd_train.perturbations.perturbation import Networks


def ods(images: Tensor, draw: Draw, networks: Networks) -> Tensor:
    """`√D/255 · g/‖g‖₂` with `g = ∇_x w·q`: a step in a random direction of one teacher's output.

    `q = softmax(z_t/τ)` of one random teacher t for the whole batch, `w ~ U(-1, 1)^c` fresh per image
    (Tashiro et al. 2020; in distillation, Nam, Yoon, Lee, Lee 2021). Evaluates teacher t once.
    """
    return _step_and_confidence(images, draw, networks)[0]


def conf_ods(images: Tensor, draw: Draw, networks: Networks) -> Tensor:
    """`ods` times the teacher's confidence `max_c q_c` on the image (Nam, Yoon, Lee, Lee 2021)."""
    step, confidence = _step_and_confidence(images, draw, networks)
    return step * confidence.to(step).view(-1, *[1] * (images.ndim - 1))


def _step_and_confidence(images: Tensor, draw: Draw, networks: Networks) -> tuple[Tensor, Tensor]:
    """The step `(b, ...)` of `ods`, and the confidence `(b,)`, from one evaluation of the teacher."""
    teacher = networks.teachers[draw.teachers[0]]
    confidence: list[Tensor] = []

    def directed_output(pixels: Tensor) -> Tensor:
        probs = tempered_log_probs(teacher(pixels), networks.temperature).exp()
        confidence.append(probs.detach().amax(dim=-1))
        return (draw.uniform(probs.shape[1:], like=probs) * probs).sum(dim=-1)

    with evaluation_mode(teacher):
        gradient = pixel_gradient(images, directed_output)
    return one_grey_level(gradient), confidence[0]
