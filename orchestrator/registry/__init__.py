"""The model registry: an averaged student becomes a version that loads without this project."""

from orchestrator.registry.champion import (
    Move,
    NoSuchVersion,
    champion_of,
    champions,
    history,
    move_champion,
    roll_back,
)
from orchestrator.registry.exported_model import ExportError
from orchestrator.registry.listing import ListedVersion, list_versions
from orchestrator.registry.promotion import Promotion, Validation, decide_promotion
from orchestrator.registry.provenance import code_version, lineage_tags, weights_sha256
from orchestrator.registry.registration import (
    MAX_DESCRIPTION_CHARACTERS,
    RegisteredVersion,
    check_model_name,
    register_averaged_student,
)

__all__ = [
    "MAX_DESCRIPTION_CHARACTERS",
    "ExportError",
    "ListedVersion",
    "Move",
    "NoSuchVersion",
    "Promotion",
    "RegisteredVersion",
    "Validation",
    "champion_of",
    "champions",
    "check_model_name",
    "code_version",
    "decide_promotion",
    "history",
    "lineage_tags",
    "list_versions",
    "move_champion",
    "register_averaged_student",
    "roll_back",
    "weights_sha256",
]
