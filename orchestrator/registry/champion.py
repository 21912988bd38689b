"""Who is champion, why, and who was before: the alias and its history.

The alias is moved by one call, which the registry carries out whole or not at all: there is never
a moment without a champion, nor with two. Each move is first noted in a tag of the registered model; a
note whose move never happened leads nowhere, and is passed over. Of two moves at once the later call wins,
and the other's note may be lost. What an interrupted move did not say on the versions, the same command says.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from orchestrator.errors import ExperimentError
from orchestrator.registry.promotion import CHALLENGER, CHAMPION
from orchestrator.tracking.run_state import shortened

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

PROMOTION_TAG = "ekd.promotion"
_HISTORY = "ekd.champion."
HISTORY_TAG = f"{_HISTORY}history"
"""A line for each move, the newest last. Earlier versions of ekd wrote each to a tag of its own, named by its
time (UTC): sorted by name, they come first."""
NOT_TO_BE_USED = "Not to be used"
"""What the card of a version that is doubted begins with."""
_ROLLED_BACK = f"{NOT_TO_BE_USED}: rolled back"
_BY_HAND = "Champion by hand"
_WHEN_REGISTERED = "When it was registered: "
_REGISTERED_AS = " (when registered, "
_MAX_HISTORY_CHARACTERS = 5000
"""What a registry in PostgreSQL keeps; the oldest lines go first."""
MAX_DESCRIPTION_CHARACTERS = 5000
ALIAS_TAG = "ekd.alias"
"""On the MLflow run that made a version: which alias that has, for the table of runs."""
ABOUT = """Averaged students of `ekd run`: each version is one plain network whose card is its description.

`champion` moves by itself only to a version that is better on validation, neither at chance level nor
worse than its own control, or by `ekd promote` and `ekd rollback`. The tag `ekd.champion.history` here is
its history; the tag `ekd.promotion` of a version says why it has its alias.

To compare versions, select them in the list and press Compare, or run `ekd models`."""
"""Of a registered model, whose page shows it first; once there is one, after the champion and why it is."""
_MOVE = re.compile(
    r"(?:[\d:TZ-]+ )?version (?P<before>\d+|none) -> version (?P<after>\d+) \((?P<kind>\w+)\): (?P<reason>.*)"
)


class NoSuchVersion(ExperimentError):
    """The registry has no such model, version, or earlier champion; the message says which."""


@dataclass(frozen=True)
class Move:
    """The alias `champion` going from one version to another."""

    before: str | None
    after: str
    kind: str
    """`registered`: decided when the version was registered; `promoted` or `rollback`: by a person."""
    reason: str

    def __str__(self) -> str:
        return f"version {self.before or 'none'} -> version {self.after} ({self.kind}): {self.reason}"


@contextmanager
def _missing(what: str) -> Iterator[None]:
    """What the registry does not have is a `NoSuchVersion` that says so."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        raise NoSuchVersion(f"there is no {what}; `ekd models` lists what is") from None


def champion_of(client: "MlflowClient", name: str) -> str | None:
    """The champion's version. Raises `NoSuchVersion` if there is no such model."""
    with _missing(f"registered model {name}"):
        holder = client.get_registered_model(name).aliases.get(CHAMPION)
    return None if holder is None else str(holder)


def aliased(client: "MlflowClient", name: str, alias: str) -> str:
    """The version of `name` that has `alias`. Raises `NoSuchVersion`."""
    with _missing(f"registered model {name}"):
        holder = client.get_registered_model(name).aliases.get(alias)
    if holder is None:
        versions = [int(found.version) for found in client.search_model_versions(f"name = '{name}'")]
        newest = f"the newest is models:/{name}/{max(versions)}" if versions else "it has none at all"
        raise NoSuchVersion(
            f"no version of {name} has the alias {alias}; {newest}, and `ekd models {name}` lists them all"
        )
    return str(holder)


def version_of(client: "MlflowClient", name: str, version: str) -> "ModelVersion":
    """Version `version` of `name`. Raises `NoSuchVersion`."""
    with _missing(f"version {version} of {name}"):
        return client.get_model_version(name, version)


def history(client: "MlflowClient", name: str) -> list[Move]:
    """All noted moves, the oldest first."""
    tags = client.get_registered_model(name).tags
    lines = [
        line for key, text in sorted(tags.items()) if key.startswith(_HISTORY) for line in text.split("\n")
    ]
    noted = [_MOVE.fullmatch(line) for line in lines]
    return [
        Move(None if m["before"] == "none" else m["before"], m["after"], m["kind"], m["reason"])
        for m in noted
        if m is not None
    ]


def champions(moves: Sequence[Move], present: str) -> list[str]:
    """The champions that a rollback can go back through, the first one first; the last is `present`.

    A promotion lays a version on a stack, a rollback takes the uppermost off. Notes of moves that were
    never made lead to no champion that a later note, or the alias, starts from: they are passed over.

    >>> champions([Move(None, "1", "registered", ""), Move("1", "2", "promoted", "")], "2")
    ['1', '2']
    """
    made: list[Move] = []
    held: str | None = present
    for move in reversed(moves):
        if move.after == held:
            made.insert(0, move)
            held = move.before
    stack = [held] if held is not None else []
    for move in made:
        if move.kind == "rollback" and move.after in stack:
            while stack[-1] != move.after:
                stack.pop()
        else:
            stack.append(move.after)
    return stack


def move_champion(client: "MlflowClient", name: str, version: str, *, kind: str, reason: str) -> Move | None:
    """Make `version` the champion: note it, move the alias, and say why on the versions.

    Called for the present champion it moves and notes nothing, and returns None; what an earlier call
    that was interrupted did not write is written.

    Raises `NoSuchVersion`: there is no such model or version; `ExperimentError`: no reason was given.
    """
    reason = " ".join(reason.split())
    if not reason:
        raise ExperimentError("a reason is needed: it is what the next person reads")
    before = champion_of(client, name)
    version_of(client, name, version)
    move = None
    if before != version:
        move = Move(before, version, kind, reason)
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        noted = client.get_registered_model(name).tags.get(HISTORY_TAG, "")
        lines = f"{noted}\n{now} {move}".strip()[-_MAX_HISTORY_CHARACTERS:]
        client.set_registered_model_tag(name, HISTORY_TAG, lines)
        client.set_registered_model_alias(name, CHAMPION, version)
    if arrival := next((m for m in reversed(history(client, name)) if m.after == version), None):
        _explain(client, name, arrival)
    return move


def _explain(client: "MlflowClient", name: str, move: Move) -> None:
    """Say on the model and on both versions that this move was made; a champion is no challenger."""
    model = client.get_registered_model(name)
    if (model.description or ABOUT).endswith(ABOUT[-40:]):  # of any version of ekd; else a person's
        before = f" Before it: version {move.before}." if move.before else ""
        described = f"Champion: version {move.after}: {_told(move).rstrip('.')}.{before}\n\n{ABOUT}"
        client.update_registered_model(name, description=described)
    if move.before:
        rolled_back = move.kind == "rollback"
        became = f"{'rolled back to' if rolled_back else 'replaced by'} version {move.after}"
        replaced = _beside(client, name, move.before, f"{became}: {move.reason}")
        client.set_model_version_tag(name, move.before, PROMOTION_TAG, replaced)
        say_on_run(client, version_of(client, name, move.before), became)
        warning = f"{_ROLLED_BACK} to version {move.after}: {move.reason}" if rolled_back else ""
        _say_on_card(client, name, move.before, warning)
    by_hand = f"{_BY_HAND}: {_told(move)}" if move.kind != "registered" else ""
    _say_on_card(client, name, move.after, by_hand)
    say_on_run(client, version_of(client, name, move.after), CHAMPION)
    if str(model.aliases.get(CHALLENGER)) == move.after:
        client.delete_registered_model_alias(name, CHALLENGER)
    # Last: it says to a rerun of the registration that nothing is left to do.
    why = _beside(client, name, move.after, f"{CHAMPION}: {_told(move)}")
    client.set_model_version_tag(name, move.after, PROMOTION_TAG, why)


def _say_on_card(client: "MlflowClient", name: str, version: str, text: str) -> None:
    """Begin the card of `version` with `text`, or nothing, instead of what an earlier move said there."""
    card = version_of(client, name, version).description or ""
    kept = card.partition("\n\n")[2] if card.startswith((_ROLLED_BACK, _BY_HAND)) else card
    kept = kept.removeprefix(_WHEN_REGISTERED)
    if text.startswith(_BY_HAND) and kept.startswith(NOT_TO_BE_USED):
        kept = f"{_WHEN_REGISTERED}{kept}"
    said = "\n\n".join(part for part in (text, kept) if part)
    if said != card:
        said = shortened(said, MAX_DESCRIPTION_CHARACTERS)
        client.update_model_version(name, version, description=said)


def _told(move: Move) -> str:
    """Why its version is champion: what is said at a rollback is said of the other one."""
    if move.kind == "rollback":
        return f"restored, because version {move.before} was rolled back: {move.reason}"
    return move.reason


def _beside(client: "MlflowClient", name: str, version: str, text: str) -> str:
    """`text`, and, where a person has decided otherwise, what was found when the version was registered."""
    before = version_of(client, name, version).tags.get(PROMOTION_TAG, "")
    found = before.partition(_REGISTERED_AS)[2].removesuffix(")") or before
    doubted = found.startswith(f"{CHALLENGER}:")
    return f"{text}{_REGISTERED_AS}{found})" if doubted else text


def say_on_run(client: "MlflowClient", version: "ModelVersion", alias: str) -> None:
    """Say on the MLflow run that made `version` which alias it has; nothing where the run is gone."""
    try:
        client.set_tag(version.run_id or "", ALIAS_TAG, alias)
    except Exception as error:
        # The last: it was deleted, and may come back.
        if getattr(error, "error_code", "") not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise


def roll_back(client: "MlflowClient", name: str, *, reason: str) -> Move | None:
    """Make the champion before the present one champion again; once more goes one further back.

    Raises `NoSuchVersion`: there is no such model, no champion, or none before it; `ValueError`: no reason
    was given.
    """
    present = champion_of(client, name)
    if present is None:
        raise NoSuchVersion(f"{name} has no champion")
    before = champions(history(client, name), present)[:-1]
    if not before:
        raise NoSuchVersion(
            f"{name} had no champion before version {present}; `ekd promote` makes any version the champion"
        )
    return move_champion(client, name, before[-1], kind="rollback", reason=reason)
