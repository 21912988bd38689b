"""From the settings of a run to the update that its loop repeats."""

from collections.abc import Mapping

import torch
from torch import Tensor

from ekd_train.data.augment import as_float
from ekd_train.data.seeds import derive_seed
from ekd_train.data.tensors import TrainingData
from ekd_train.distributed import Workers
from ekd_train.models.build_network import build_network
from ekd_train.models.teachers import Teachers
from ekd_train.objectives import Objective, build_objective, objective_for
from ekd_train.settings import TrainingRun
from ekd_train.training.optimiser import build_optimiser
from ekd_train.training.speed import lay_out
from ekd_train.training.step import Step
from ekd_train.training.trainee import build_trainee


def build_step(
    run: TrainingRun,
    data: TrainingData,
    workers: Workers,
    teachers: Teachers | None,
    start: Mapping[str, Tensor] | None,
) -> Step:
    """The untrained network of `run` on the workers' device, with all that updates it.

    Weights are drawn from torch's global generator, which is seeded by the run's seed and name first, or
    are `start`. The teachers are laid out in memory as the network is, in place.

    Raises:
        ValueError: settings that do not fit the network or each other; the message says which.
    """
    torch.manual_seed(derive_seed(run.seed, run.name, "weights"))
    network = build_network(run, data.spec, start).to(workers.device)
    for module in (network, teachers):
        if module is not None:
            lay_out(module, run.training.speed)
    objective = _objective(run)
    trainee = build_trainee(network, objective, teachers, as_float(data.train.images[:2]))
    factors = run.student.factors if run.student is not None else None
    return Step(
        trainee=trainee.train(),
        parallel=workers.parallel(trainee),
        objective=objective,
        perturbation=run.perturbation,
        perturbation_temperature=_perturbation_temperature(run),
        optimiser=build_optimiser(trainee, run.training, factors),
        speed=run.training.speed,
    )


def _objective(run: TrainingRun) -> Objective:
    if run.student is None:
        return build_objective("label", run.distillation)
    chosen = run.distillation.objective if run.distillation is not None else "auto"
    return build_objective(objective_for(run.student.method, chosen), run.distillation)


def _perturbation_temperature(run: TrainingRun) -> float:
    if run.perturbation.temperature is not None:
        return run.perturbation.temperature
    return run.distillation.temperature if run.distillation is not None else 1.0
