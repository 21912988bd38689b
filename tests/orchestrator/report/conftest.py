"""A finished run's evidence without a run: random predictions of the right shapes, a made-up search."""

from dataclasses import replace

import pytest
import torch
from training_runs import Tables, a_description

from ekd_train.evaluation.diversity import diversity
from ekd_train.metrics import per_image
from ekd_train.persistence.records import Cost
from ekd_train.robustness import evaluate
from orchestrator.experiment.schema import build_experiment
from orchestrator.pipeline.manifest_content import ManifestContent, Searched, Stage, TrialOutcome
from orchestrator.pipeline.stages.evaluate import measure
from orchestrator.pipeline.summary import summarise
from orchestrator.report import Evidence
from orchestrator.report.search import Search
from orchestrator.tuning.request import AskedSearch
from orchestrator.tuning.space import load_space
from orchestrator.tuning.trial_store import TrialRecord

TEACHERS, MEMBERS, IMAGES = 2, 2, 120
SCORES = (0.91, 0.95, 0.93, 0.90, 0.92)


def make_evidence(classes: int = 4, *, method: str = "latent_be", names=None, **settings) -> Evidence:
    generator = torch.Generator().manual_seed(0)
    counts = {"control": 1, "teacher/0": 1, "teacher/1": 1, "ensemble": TEACHERS, "averaged": 1}
    if method != "kd":
        counts["members"] = MEMBERS
    tensors = Tables()
    for split in ("validation", "test"):
        labels = torch.arange(IMAGES) % classes
        tensors[f"{split}/labels"] = labels
        for name, count in counts.items():
            logits = torch.randn(count, IMAGES, classes, generator=generator)
            logits[:, torch.arange(IMAGES), labels] += 2
            tensors[f"{split}/{name}"] = logits.softmax(-1)
    if settings.get("perturbation", {}).get("kind", "none") != "none":
        clean = torch.rand(6, 1, 8, 8, generator=generator)
        tensors["perturbation/clean"], tensors["perturbation/perturbed"] = clean, (clean + 0.01).clamp(0, 1)
        tensors["perturbation/labels"] = torch.arange(6) % classes
        for what in ("clean", "perturbed"):
            tensors[f"perturbation/teachers/{what}"] = tensors["test/ensemble"]
    cost = {
        name: Cost(
            params=1000 * count,
            macs=5000 * count,
            latency_ms={"1": 0.5 * count, "64": 3.0 * count},
            latency_quartiles_ms={"1": (0.4 * count, 0.7 * count), "64": (2.9 * count, 3.2 * count)},
        )
        for name, count in counts.items()
    }
    tree = {
        "name": "made-up",
        "teachers": {"count": TEACHERS},
        "student": {"method": method, "members": MEMBERS},
        **settings,
    }
    trained = {
        "weights_sha256": "a" * 64,
        "best_epoch": 2,
        "validation_accuracy": 0.9,
        "train_seconds": 75.0,
        "workers": 1,
        "precision": "float32",
    }
    outputs = {
        "prepare": {
            "data": a_description(
                name="digits",
                train=300,
                validation=IMAGES,
                test=IMAGES,
                num_classes=classes,
                class_names=list(names or map(str, range(classes))),
            )
        },
        "teachers": {"teacher-0": trained, "teacher-1": trained},
        "control": {"control": trained},
        "distil": {"student": trained},
        "average": {"network": "networks/averaged", "weights_sha256": "b" * 64},
        "evaluate": {
            "predictors": measure(tensors, cost),
            "latency": {"device": "CPU", "threads": 1, "torch": "2"},
        },
        "register": {
            "name": "ekd-made-up",
            "version": "3",
            "aliases": ["champion"],
            "promotion": "better",
            "uri": "models:/ekd-made-up/3",
        },
    }
    manifest = ManifestContent(
        run_id="made-up-0123456789",
        experiment="made-up",
        result_hash="c" * 64,
        data_fingerprint="d" * 64,
        code_version="abc",
        created=1.0,
        updated=2.0,
        status="done",
        mlflow={
            "parent": "e" * 32,
            **dict.fromkeys(("teacher-0", "teacher-1", "control", "student"), "f" * 32),
        },
        stages={name: Stage(seconds=1.0, outputs=made) for name, made in outputs.items()},
    )
    plain = [
        {"epoch": e, "train/loss": 2 / e, "averaged/accuracy": 0.5 + e / 10, "averaged/nll": 1 / e}
        for e in (1.0, 2.0, 3.0)
    ]
    student = plain
    if method != "kd":
        spread = {f"members_diversity/{k}": v for k, v in diversity(tensors["test/members"]).items()}
        trained_on = {
            f"train/{who}_diversity/{key}": value
            for who in ("teachers", "members")
            for key, value in {"pairwise_kl": 0.02, "agreement": 0.95}.items()
        }
        more = {"members/accuracy": 0.7, "members/nll": 0.6, "averaging_gap": 0.01, **spread, **trained_on}
        student = [{**record, **more} for record in plain]
    return Evidence(
        manifest=manifest,
        experiment=build_experiment(tree).resolved(),
        summary=summarise(manifest),
        data=manifest.prepared.data,
        histories={"teacher-0": plain, "teacher-1": plain, "control": plain, "student": student},
        tensors=tensors,
    )


def evaluated(evidence: Evidence) -> Evidence:
    """As if `ekd evaluate` had been called: the images themselves stand for corrupted ones, validation images
    for foreign ones."""
    names = list(evidence.predictors)
    at = {name: dict.fromkeys(("1", "5"), evidence.predictors[name].test) for name in names}
    kinds = {name: dict.fromkeys(("fog", "jpeg"), at[name]) for name in names}
    test = {name: evidence.tensors[f"test/{name}"] for name in names}
    uncertain = evaluate.uncertainty(
        {
            name: torch.stack(list(per_image(p.mean(0), evidence.labels()).values()))
            for name, p in test.items()
        }
    )
    foreign = {name: evidence.tensors[f"validation/{name}"] for name in names}
    found = {
        "number": 1,
        "settings": {"seed": 0},
        "corruption": {
            "baseline": "control",
            "images": IMAGES,
            "predictors": {
                name: evaluate.summarised(kinds[name], kinds["control"]) | uncertain[name] for name in names
            },
        },
        "out_of_distribution": {
            "outside": "fashion_mnist",
            "images": IMAGES,
            "predictors": evaluate.out_of_distribution(test, foreign),
        },
        "risk_coverage": {"predictors": evaluate.selective(test, evidence.labels())},
    }
    return replace(evidence, evaluation=found)


@pytest.fixture(scope="session")
def evidence() -> Evidence:
    return make_evidence(perturbation={"kind": "tdiv_sdiv", "strength": 1.0})


def made_trial(number, score, status="completed", epochs=3, error=None):
    history = [
        {"epoch": e, "averaged/accuracy": score - 0.1 / e, "score": score - 0.1 / e, "score_nll": 1 / e}
        for e in range(1, epochs + 1)
    ]
    values = {
        "distillation.temperature": 1.0 + number,
        "student.members": 2 + number % 3,
        "perturbation.strength": 0.5 * number,
    }
    known = {"values": values, "status": status, "history": history, "error": error}
    return TrialRecord(number=number, seconds=75.0, full_cost=4400.0, planned_epochs=3, **known)


@pytest.fixture(scope="session")
def search() -> Search:
    trials = [made_trial(i, score, "pruned" if i == 3 else "completed") for i, score in enumerate(SCORES)]
    trials.append(made_trial(5, 0, "failed", epochs=0, error="the loss is nan <at step 3>"))
    ranked = sorted(trials, key=lambda record: record.quality, reverse=True)
    best = ranked[0]
    item = TrialOutcome(trial=best.name, values=best.values, score=best.quality[0], cost=120.0)
    trials_by_end = {"completed": 4, "failed": 1, "pruned": 1}
    outputs = Searched(best=item, pareto=(item,), trials=trials_by_end, seconds=75.0)
    return Search(AskedSearch(space=load_space("student")), ranked, outputs)
