"""What a search would do, and what it would cost: computed without starting anything."""

import math
from statistics import mean

from ekd_train.data.description import DataDescription
from ekd_train.models.build_network import network_on_paper
from orchestrator.errors import ExperimentError
from orchestrator.experiment.schema import Experiment
from orchestrator.pipeline.summary import compact
from orchestrator.planning.capacity import Capacity
from orchestrator.tuning.capacity import trials_at_once
from orchestrator.tuning.cost import trial_cost
from orchestrator.tuning.domains import Choice
from orchestrator.tuning.pool import trial_experiment
from orchestrator.tuning.request import SearchRequest, grid_size
from orchestrator.tuning.schedulers import Stopping, stopping
from orchestrator.tuning.searchers import random_points

SAMPLE = 200
"""Points of the space that the mean cost of a trial is taken over."""


def search_lines(
    request: SearchRequest, pool: Experiment, description: DataDescription, capacity: Capacity
) -> list[str]:
    """The search in lines for a person: trials, rungs, training passes, what runs at once."""
    space, stops = request.space, stopping(request, pool)
    per_image = mean(trial_cost(pool, values) for values in random_points(space, SAMPLE))
    full = per_image * request.trials * request.seeds * description.train
    share, finished = stops.expected()
    at_once = trials_at_once(pool.cluster, capacity, request)
    lines = [f"space     {space.name}: {space.description}"]
    lines += [f"            {key}: {domain.describe()}" for key, domain in space.domains.items()]
    of = f" of the grid's {grid_size(space)} points" if request.searcher == "grid" else ""
    seeds = f", each from {request.seeds} seeds" if request.seeds > 1 else ""
    budget = f", at most {request.time_budget_s:g} s" if request.time_budget_s is not None else ""
    lines.append(f"trials    {request.trials}{of}, {request.searcher} search{seeds}{budget}")
    lines.append("          trial 0 is the experiment as it stands, trained in full")
    lines.append(f"stopping  {_stopping(stops, pool.student.training.evaluate_every, finished)}")
    lines.append(
        f"passes    {compact(full)} forward-pass equivalents if all trials train in full"
        + (f", about {compact(share * full)} ({100 * share:.0f} %) expected" if share < 1 else "")
    )
    lines.append(f"at once   {at_once} trial{'s' if at_once > 1 else ''} {_where(pool)}")
    lines.append(f"teachers  a pool of {pool.teacher_count}, trained once; {_taught(request, pool)}")
    lines.append("then      the best trial's network is averaged, tested once and registered")
    return lines + ([f"WARNING: {doubt}"] if (doubt := stops.doubt(request.searcher)) else [])


def check_students(request: SearchRequest, pool: Experiment, description: DataDescription) -> None:
    """Build every kind of student of the space once, without memory; raises `ExperimentError`."""
    shapes = {
        key: domain.choice
        for key, domain in request.space.domains.items()
        if isinstance(domain, Choice) and key.startswith("student.")
    }
    seen: set[str] = set()
    for values in random_points(request.space, SAMPLE if shapes else 1):
        run = trial_experiment(pool, values).student_run()
        assert run.student is not None
        shape = run.student.model_dump_json(exclude={"training"})
        if shape in seen:
            continue
        seen.add(shape)
        try:
            network_on_paper(run, description)
        except (ValueError, TypeError, RuntimeError) as error:
            shown = ", ".join(f"{key}={values[key]}" for key in shapes)
            raise ExperimentError(
                f"space {request.space.name}: {shown}: {' '.join(str(error).split())}"
            ) from None


def _stopping(stops: Stopping, every: int, finished: float) -> str:
    """`every`: epochs between validations, after which alone trials are compared."""
    name, longest, end = stops.scheduler, stops.longest, f"about {finished:.0f} trials train in full"
    if not stops.rungs:
        return f"{name}: every trial trains its {longest} epochs"
    if name == "median":
        return f"median: from epoch {stops.grace} on, what is below the median; {end}"
    after = ", ".join(str(math.ceil(rung / every) * every) for rung in stops.rungs)
    return f"{name}: rungs after epochs {after} of {longest}, each passed by 1 in {stops.factor:.2g}; {end}"


def _taught(request: SearchRequest, pool: Experiment) -> str:
    domain = request.space.domains.get("distillation.assignment")
    assignments = set(domain.values) if domain is not None else {pool.distillation.assignment}
    first = "a trial whose student pairs members with teachers takes the pool's first ones"
    turns = "every trial is taught by the whole pool, in turn"
    if "rotating" not in assignments:
        return first
    return f"{first}, in rotation {turns}" if len(assignments) > 1 else turns


def _where(pool: Experiment) -> str:
    cluster = pool.cluster
    if cluster.most_workers > 1:
        return f"of {cluster.workers_per_run} workers, through Ray Train"
    gpus = f" and {cluster.gpus_per_worker:g} GPUs" if cluster.gpus_per_worker else ""
    cpus = f"{cluster.cpus_per_worker} CPU{'s' if cluster.cpus_per_worker > 1 else ''}"
    return f"of {cpus}{gpus}, each in a process of its own"
