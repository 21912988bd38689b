"""The report as one HTML page that needs no network."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from ekd_train.evaluation.bootstrap import RESAMPLES, SEED, Interval
from orchestrator.pipeline.progress import duration
from orchestrator.pipeline.summary import CONTROLS, WHAT_THEY_ARE, compact, kind_of
from orchestrator.report import charts
from orchestrator.report.evidence import Evidence
from orchestrator.report.findings import MOST_CLASSES_SHOWN, Findings, signed
from orchestrator.report.images import examples, mistakes
from orchestrator.report.robustness import SCORES, robustness_section
from orchestrator.report.search import search_section
from orchestrator.tracking import runs_page
from orchestrator.tracking.run_state import flattened

_HERE = Path(__file__).parent


@dataclass(frozen=True)
class RegistryStatus:
    """What the registry says of the run's version on a day after it was registered."""

    aliases: Sequence[str]
    promotion: str
    day: str


def render(
    evidence: Evidence, *, tracking_uri: str | None = None, registry_status: RegistryStatus | None = None
) -> str:
    """The page: a pure function of its arguments, so the same run gives the same page.

    Args:
        evidence: of the run.
        tracking_uri: where its MLflow runs are, without credentials, for the lines that serve it.
        registry_status: of its version; None: what it was when it was registered, and said to be that.
    """
    findings = Findings(evidence)
    shown, factor = examples(evidence)
    return _template().render(
        css=(_HERE / "page.css").read_text(),
        evidence=evidence,
        experiment=evidence.experiment,
        manifest=evidence.manifest,
        data=evidence.data,
        predictors=evidence.predictors,
        findings=findings,
        resamples=RESAMPLES,
        seed=SEED,
        cost_chart=charts.cost_chart(findings),
        reliability_chart=charts.reliability_chart(findings),
        learning_chart=charts.learning_chart(evidence),
        diversity_chart=charts.diversity_chart(evidence, findings),
        examples=shown,
        amplification=factor,
        gallery=mistakes(evidence),
        confusion=findings.confusion.tolist() if len(findings.confusion) <= MOST_CLASSES_SHOWN else None,
        what_they_are=WHAT_THEY_ARE
        | {name: what for name, what in CONTROLS.items() if name in evidence.predictors},
        model=evidence.summary.registered_model,
        sources=evidence.summary.sources,
        tracking_uri=tracking_uri,
        mlflow_page=_mlflow_page(evidence, tracking_uri),
        registry_status=registry_status,
        settings=_settings(evidence.experiment),
        robustness=robustness_section(evidence),
        robustness_scores=SCORES,
        searched=search_section(evidence.search),
    )


def _mlflow_page(evidence: Evidence, tracking_uri: str | None) -> str | None:
    """The run's page on its MLflow server; None where there is no server, or it is not known which run."""
    model, run = evidence.summary.registered_model, evidence.manifest.mlflow.get("parent")
    if not tracking_uri or not tracking_uri.startswith(("http://", "https://")):
        return None
    if run is None or model is None or not model.experiment_id:
        return None
    return f"{runs_page(tracking_uri, model.experiment_id).partition('?')[0]}/runs/{run}"


@cache
def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "compact": compact,
        "duration": duration,
        "kind": kind_of,
        "percent": lambda value, digits=2: f"{100 * value:.{digits}f}",
        "fixed": lambda value, digits=4: f"{value:.{digits}f}",
        "signed": signed,
        "architecture": _architecture,
        "difference": _difference,
        "range": _range,
    }
    return environment.get_template("page.html.j2")


def _difference(interval: Interval, scale: float = 1, digits: int = 4) -> str:
    return signed(scale * interval.value, digits)


def _range(interval: Interval, scale: float = 1, digits: int = 4, *, sign: bool = True) -> str:
    ends = (scale * interval.low, scale * interval.high)
    low, high = (signed(end, digits) if sign else f"{end:.{digits}f}" for end in ends)
    return f"{low} to {high}"


def _architecture(architecture: dict[str, Any]) -> str:
    """Such as `wide_resnet, depth 10, width 1`; a torchvision name alone."""
    parts = [architecture["name"]]
    if architecture.get("depth") is not None:
        parts += [f"depth {architecture['depth']}", f"width {architecture['width']:g}"]
    if architecture.get("pruned"):
        parts.append(f"{100 * architecture['pruned']:g} % of its channels pruned")
    return ", ".join(parts)


def _settings(experiment: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Every setting, as dotted key and value."""
    return list(flattened(experiment, prefix).items())
