"""The model registry: an averaged student becomes a version that loads without this project."""

from orchestrator.registry.exported_model import ExportError
from orchestrator.registry.promotion import Promotion, Validation, decide_promotion
from orchestrator.registry.provenance import code_version, lineage_tags, weights_sha256
from orchestrator.registry.registration import (
    RegisteredVersion,
    check_model_name,
    register_averaged_student,
)

__all__ = [
    "ExportError",
    "Promotion",
    "RegisteredVersion",
    "Validation",
    "check_model_name",
    "code_version",
    "decide_promotion",
    "lineage_tags",
    "register_averaged_student",
    "weights_sha256",
]
