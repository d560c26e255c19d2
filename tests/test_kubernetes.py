"""The image, the Kubernetes manifests and the Helm chart."""

import hashlib
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from bluesminds import __version__
from tests.terminal import ROOT

PACKAGING = ROOT / "packaging"
CHART = PACKAGING / "helm/bluesminds"
VALUES = yaml.safe_load((CHART / "values.yaml").read_text())
_ACTION = re.compile(r"\{\{-?\s*(.*?)\s*\}\}")


def render(template: str, values: dict[str, Any]) -> str:
    """The part of Helm's language that the chart uses: values, toYaml, nindent, sha256sum, and if."""
    lines, kept = [], [True]
    for line in template.splitlines():
        action = _ACTION.fullmatch(line.strip())
        if action and action[1].startswith("if "):
            kept.append(bool(look_up(action[1][3:], values)))
        elif action and action[1] == "end":
            kept.pop()
        elif all(kept):
            text = _ACTION.sub(lambda found: evaluate(found[1], values), line)
            lines.append(text.lstrip(" ") if action and "nindent" in action[1] else text)
    assert kept == [True]
    return "\n".join(lines)


def evaluate(expression: str, values: dict[str, Any]) -> str:
    first, *filters = (part.strip() for part in expression.split("|"))
    function, _, name = first.rpartition(" ")
    value: Any = look_up(name, values)
    if function == "toYaml":
        value = yaml.safe_dump(value).strip()
    for one in filters:
        if one == "sha256sum":
            value = hashlib.sha256(str(value).encode()).hexdigest()
        else:
            indent = "\n" + " " * int(one.removeprefix("nindent "))
            value = indent + indent.join(str(value).splitlines())
    return str(value)


def look_up(name: str, values: dict[str, Any]) -> Any:
    found: Any = {"Values": values, "Release": {"Name": "gate"}}
    for part in name.lstrip(".").split("."):
        found = found[part]
    return found


def chart(values: dict[str, Any]) -> dict[str, Any]:
    texts = [path.read_text() for path in sorted((CHART / "templates").iterdir())]
    documents = [yaml.safe_load(render(text, values)) for text in texts]
    return {one["kind"]: one for one in documents}


def manifests() -> dict[str, Any]:
    documents = yaml.safe_load_all((PACKAGING / "kubernetes/gateway.yaml").read_text())
    return {one["kind"]: one for one in documents}


@pytest.mark.parametrize("source", ["manifests", "chart"])
def test_pod_is_single_restricted_and_stops_gracefully(source: str) -> None:
    found = manifests() if source == "manifests" else chart(VALUES)
    spec = found["StatefulSet"]["spec"]
    pod = spec["template"]["spec"]
    assert spec["replicas"] == 1
    assert pod["securityContext"]["runAsNonRoot"] and not pod["automountServiceAccountToken"]
    assert pod["terminationGracePeriodSeconds"] > 30
    for container in [*pod["initContainers"], *pod["containers"]]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["image"] == f"bluesminds:{__version__}"
    (gateway,) = pod["containers"]
    assert gateway["livenessProbe"]["httpGet"]["path"] == "/health"
    assert gateway["readinessProbe"]["httpGet"]["path"] == "/ready"
    assert gateway["resources"] == VALUES["resources"]
    labels = found["Service"]["spec"]["selector"]
    assert labels.items() <= spec["template"]["metadata"]["labels"].items()
    assert {one["name"] for one in gateway["volumeMounts"]} == {"config", "tmp", "data"}


@pytest.mark.process
@pytest.mark.skipif(shutil.which("helm") is None, reason="needs helm")
def test_chart_has_no_fault_that_helm_finds() -> None:
    done = subprocess.run(["helm", "lint", "--strict", CHART], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_chart_passes_its_values_on() -> None:
    variable = {"name": "OPENAI_API_KEY", "valueFrom": {"secretKeyRef": {"name": "vendors", "key": "openai"}}}
    values = VALUES | {"env": [variable], "persistence": {"size": "1Gi", "storageClass": "fast"}}
    found = chart(values)
    spec = found["StatefulSet"]["spec"]
    pod = spec["template"]["spec"]
    # All of them read the configuration.
    for container in [*pod["initContainers"], *pod["containers"]]:
        assert variable in container["env"]
    claim = spec["volumeClaimTemplates"][0]["spec"]
    assert (claim["storageClassName"], claim["resources"]["requests"]["storage"]) == ("fast", "1Gi")
    assert found["ConfigMap"]["data"]["gateway.toml"].strip() == VALUES["config"].strip()
    assert "storageClassName" not in str(chart(VALUES))


def test_configurations_listen_for_other_machines() -> None:
    for text in ((PACKAGING / "kubernetes/gateway.toml").read_text(), VALUES["config"]):
        assert tomllib.loads(text)["server"] == {"host": "0.0.0.0", "port": 3000}  # noqa: S104


def test_chart_and_image_have_the_version_of_the_product() -> None:
    described = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert described["version"] == described["appVersion"] == VALUES["image"]["tag"] == __version__
    containerfile = (PACKAGING / "container/Containerfile").read_text()
    assert "USER 65532:65532" in containerfile and 'CMD ["bluesminds", "health"]' in containerfile
    copied = re.findall(r"^COPY (\S+)", containerfile, re.MULTILINE)
    allowed = Path(PACKAGING / "container/Containerfile.dockerignore").read_text()
    assert all(f"!{path}\n" in allowed for path in copied)
