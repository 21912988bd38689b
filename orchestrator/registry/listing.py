"""What is registered, with what it measures."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.registry.champion import PROMOTION_TAG
from orchestrator.registry.logged_model import recorded_of

if TYPE_CHECKING:
    from mlflow import MlflowClient


@dataclass(frozen=True)
class ListedVersion:
    """One version of a registered model."""

    name: str
    version: str
    aliases: tuple[str, ...]
    metrics: Mapping[str, float]
    """On the test images, and `validation/...`; those that it has."""
    params: Mapping[str, str]
    """Its settings, as far as they differ from the defaults or are always shown."""
    run_id: str
    """The `ekd run`."""
    why: str
    """Why it has, or no longer has, the alias that it got."""
    created_ms: int

    def __str__(self) -> str:
        """Where it is from and what became of it, in a line."""
        told = f"models:/{self.name}/{self.version} (run {self.run_id})"
        if self.why:
            told += f" {'is' if self.why.partition(':')[0] in self.aliases else 'was'} {self.why}"
        return " ".join(told.split())  # tags: anybody may have written them


def list_versions(client: "MlflowClient", name: str | None = None) -> list[ListedVersion]:
    """Every version that this project registered, by model; the newest version first."""
    names = [name] if name is not None else _all_names(client)
    found = []
    for each in names:
        versions = list(client.search_model_versions(f"name = '{each}'"))
        aliases: dict[str, list[str]] = {}
        if versions:  # a search does not fill in the versions' aliases on every store
            for alias, version in client.get_registered_model(each).aliases.items():
                aliases.setdefault(str(version), []).append(alias)
        for version in sorted(versions, key=lambda v: -int(v.version)):
            tags = version.tags
            if "ekd.run_id" not in tags:
                continue
            known = recorded_of(client, version)
            found.append(
                ListedVersion(
                    name=each,
                    version=str(version.version),
                    aliases=tuple(sorted(aliases.get(str(version.version), []))),
                    metrics=known.metrics,
                    params=known.params,
                    run_id=tags["ekd.run_id"],
                    why=tags.get(PROMOTION_TAG, ""),
                    created_ms=int(version.creation_timestamp),
                )
            )
    return found


def _all_names(client: "MlflowClient") -> list[str]:
    names: list[str] = []
    token = None
    while True:
        page = client.search_registered_models(page_token=token)
        names += [model.name for model in page]
        token = page.token
        if not token:
            return sorted(names)
