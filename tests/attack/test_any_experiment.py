"""Values of any kind in any place of an experiment and of a search space: one line says what is wrong."""

from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from fuzzing import fuzzed
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import EkdError, ExperimentError
from orchestrator.experiment.schema import load_experiment
from orchestrator.experiment.yaml_tree import read_yaml
from orchestrator.tuning.space import PACKAGED, check_space, load_space

pytestmark = pytest.mark.attack

EXPERIMENT = load_experiment("digits")
KEYS = st.text(max_size=8) | st.integers() | st.booleans() | st.none() | st.dates()
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([10**400, -(10**400), 2**63, 0, 1, -1, "", "a.b:c", "\0", "1e5", "\x1b[2J"])
    | st.floats()
    | st.text(max_size=20)
    | st.binary(max_size=8)
    | st.dates()
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


def places(tree: Any, above: tuple = ()) -> Iterator[tuple]:
    """The way to every value in a tree."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield (*above, key)
        yield from places(value, (*above, key))


def spoiled(data, whole: Any) -> Any:
    """`whole` with any values in one to three places of it, and perhaps a key that nobody knows."""
    for _ in range(data.draw(st.integers(1, 3))):
        *above, last = data.draw(st.sampled_from(list(places(whole)) or [()])) or [None]
        node = whole
        for key in above:
            node = node[key]
        if isinstance(node, dict) and data.draw(st.integers(0, 9)) == 0:
            last = data.draw(KEYS)
        node[last] = data.draw(VALUES)
        if not whole:
            break
    return whole


@pytest.fixture
def written(tmp_path):
    def write(tree: Any) -> str:
        file = tmp_path / "x.yaml"
        file.write_text(yaml.safe_dump(tree, allow_unicode=True), encoding="utf-8")
        return str(file)

    return write


def clear(error: EkdError) -> None:
    assert str(error)
    assert "\n" not in str(error)


@fuzzed
@given(st.data())
def test_any_value_in_an_experiment_is_one_line_or_an_experiment(written, data):
    tree = EXPERIMENT.model_dump(mode="json", exclude={"code"})
    try:
        found = load_experiment(written(spoiled(data, tree)))
    except EkdError as error:
        clear(error)
        return
    assert found.default_run_id()
    assert len(list(found.teacher_runs())) == sum(group.count for group in found.teachers)
    assert found.student_run()


@fuzzed
@given(st.data())
def test_any_value_in_a_space_is_one_line_or_a_space(written, data):
    text = data.draw(st.sampled_from(sorted(PACKAGED.glob("*.yaml")))).read_text()
    tree = spoiled(data, read_yaml(text, "x.yaml"))
    try:
        space = load_space(written(tree))
        check_space(space, EXPERIMENT)
    except ExperimentError as error:
        clear(error)
        return
    for domain in space.domains.values():
        assert domain.describe()
        assert domain.points(3)
