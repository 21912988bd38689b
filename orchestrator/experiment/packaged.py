"""The experiments that come with the package, and where a named one lies."""

import difflib
from pathlib import Path

from orchestrator.errors import ExperimentError
from orchestrator.experiment.yaml_tree import read_text

PACKAGED = Path(__file__).parents[1] / "experiments"


def packaged_experiments() -> list[str]:
    """Names of the experiments that come with the package."""
    return sorted(path.stem for path in PACKAGED.glob("*.yaml"))


def find_experiment(source: str) -> Path:
    """The YAML file of a packaged experiment's name or a path; raises `ExperimentError`."""
    if source in (names := packaged_experiments()):
        return PACKAGED / f"{source}.yaml"
    path = Path(source)
    if path.suffix in (".yaml", ".yml") or "/" in source:
        try:
            if path.is_file():
                return path
            found = "is not a file" if path.exists() else "there is no such file"
        except OSError as error:  # a folder that may not be entered, a name that is too long
            raise ExperimentError(f"{source}: cannot be read: {error.strerror}") from None
        raise ExperimentError(f"{source}: {found}; name a YAML file, or one of {', '.join(names)}")
    begun = [name for name in names if name.startswith(f"{source}_")]
    near = begun or difflib.get_close_matches(source, names, n=1)
    hint = f"did you mean {' or '.join(near)}?" if near else f"packaged are {', '.join(names)}"
    raise ExperimentError(f"{source!r}: no packaged experiment of that name, and not a .yaml file; {hint}")


def read_experiment(path: Path) -> str:
    """The text of an experiment's file; raises `ExperimentError`."""
    try:
        return read_text(path)
    except (OSError, UnicodeDecodeError) as error:
        raise ExperimentError(f"{path}: cannot be read: {error}") from None
