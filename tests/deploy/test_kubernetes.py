"""deploy/kubernetes: is every object valid, locked down, and wired to what the gateway, vLLM and Redis really offer?

Nothing here needs a cluster. The schemas are those of Kubernetes 1.37; custom resources have checks of their own below.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from gateway import cli, config
from gateway.access import prices
from gateway.app import SURFACES
from models import family as families
from tests.deploy.kustomize import Object, containers, pod_of, read, render

ROOT = Path(__file__).parent.parent.parent
DIRECTORY = ROOT / "deploy/kubernetes"
KUBERNETES = "1.37"
CUSTOM = {"ServiceMonitor", "HTTPRoute", "InferencePool"}
OBJECTS: dict[str, list[Object]] = {
    **{name: render(DIRECTORY / name) for name in ("base", "overlays/dev", "overlays/production")},
    **{f"examples/{file.name}": read(file) for file in sorted((DIRECTORY / "examples").iterdir())},
}
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]


def name_of(place: str, one: Object) -> str:
    return f"{place}:{one['kind']}/{one['metadata']['name']}"


EVERY = {name_of(place, one): one for place, objects in OBJECTS.items() for one in objects}
PODS = {name: pod for name, one in EVERY.items() if (pod := pod_of(one)) is not None}


def object_of(place: str, kind: str, name: str) -> Object:
    return EVERY[f"{place}:{kind}/{name}"]


def environment(container: Object) -> dict[str, str]:
    return {one["name"]: one.get("value", "") for one in container.get("env", [])}


@pytest.mark.parametrize("name", [name for name, one in EVERY.items() if one["kind"] not in CUSTOM])
def test_an_object_is_valid(name: str) -> None:
    kubernetes_validate.validate(EVERY[name], KUBERNETES, strict=True)


def test_the_schemas_notice_a_wrong_field() -> None:
    wrong = object_of("base", "Service", "laconic") | {"spec": {"port": 80}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, KUBERNETES, strict=True)


@pytest.mark.parametrize("name", PODS)
def test_a_pod_is_locked_down(name: str) -> None:
    """As Pod Security's level `restricted` demands, and with a root file system that nobody writes to."""
    pod = PODS[name]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] > 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
    assert all("hostPath" not in volume for volume in pod.get("volumes", []))
    for container in containers(pod):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert {"cpu", "memory"} <= set(container["resources"]["requests"])
        assert "memory" in container["resources"]["limits"]


@pytest.mark.parametrize("name", PODS)
def test_kubernetes_sets_no_setting_of_the_gateway(name: str) -> None:
    """The Service `laconic` would set LACONIC_PORT to tcp://10.0.0.1:80 in every pod."""
    assert PODS[name]["enableServiceLinks"] is False


@pytest.mark.parametrize("name", PODS)
def test_every_mount_has_its_volume(name: str) -> None:
    pod = PODS[name]
    one = EVERY[name]
    claimed = [claim["metadata"]["name"] for claim in one["spec"].get("volumeClaimTemplates", [])]
    volumes = {*(volume["name"] for volume in pod.get("volumes", [])), *claimed}
    mounted = {mount["name"] for container in containers(pod) for mount in container.get("volumeMounts", [])}
    assert mounted == volumes


def test_no_secret_is_shipped() -> None:
    assert "Secret" not in {one["kind"] for one in EVERY.values()}
    named = {
        variable["valueFrom"]["secretKeyRef"]["name"]
        for pod in PODS.values()
        for container in containers(pod)
        for variable in container.get("env", [])
        if "valueFrom" in variable
    }
    page = (ROOT / "docs/how-to/kubernetes.md").read_text()
    assert all(f"create secret generic {name} " in page for name in named)


@pytest.mark.parametrize("place", ["base", "overlays/dev", "overlays/production"])
def test_the_gateway_accepts_its_arguments(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (container,) = pod_of(object_of(place, "Deployment", "laconic"))["containers"]  # pyright: ignore[reportOptionalSubscript]
    for name, value in environment(container).items():
        monkeypatch.setenv(name, value.replace("$(REDIS_PASSWORD)", "0f" * 24))
    command, *flags = container["args"]
    assert command == "serve"
    named = {flag.removeprefix("--").split("=")[0].replace("-", "_") for flag in flags}
    assert named <= set(config.Settings.model_fields), "a flag is abbreviated"
    settings = config.load(flags)
    engine = object_of(place, "Service", "laconic-engine")
    assert settings.engine == [f"http://{engine['metadata']['name']}:{engine['spec']['ports'][0]['port']}"]
    redis = object_of(place, "Service", "laconic-redis")
    assert (settings.redis or "").endswith(f"@{redis['metadata']['name']}:{redis['spec']['ports'][0]['port']}/0")
    assert [port["containerPort"] for port in container["ports"]] == [settings.port]
    mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
    if place == "overlays/dev":
        assert settings.family == config.shipped_family()
    else:
        assert mounts[str(settings.family)]["readOnly"] is True
    assert str(settings.state_dir) not in mounts, "a mount belongs to root, and the gateway refuses such a directory"
    assert str(settings.state_dir.parent) in mounts


def test_the_component_prices_gives_the_gateway_a_file_that_it_reads(tmp_path: Path) -> None:
    parts = {"resources": [str(DIRECTORY / "base")], "components": [str(DIRECTORY / "components/prices")]}
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(parts))
    objects = {(one["kind"], one["metadata"]["name"]): one for one in render(tmp_path)}
    for one in objects.values():
        kubernetes_validate.validate(one, KUBERNETES, strict=True)
    pod = pod_of(objects["Deployment", "laconic"])
    assert pod is not None
    (container,) = pod["containers"]
    path = config.load([flag for flag in container["args"][1:] if not flag.startswith("--family")]).prices
    assert path is not None
    (mount,) = [one for one in container["volumeMounts"] if one["mountPath"] == str(path.parent)]
    (volume,) = [one for one in pod["volumes"] if one["name"] == mount["name"]]
    written = objects["ConfigMap", volume["configMap"]["name"]]["data"][path.name]
    (tmp_path / "prices.yaml").write_text(written)
    found = prices.load(tmp_path / "prices.yaml", families.load(config.shipped_family()))
    assert found is not None


@pytest.mark.parametrize("place", ["base", "overlays/production"])
def test_streams_end_before_a_gateway_is_killed(place: str) -> None:
    pod = pod_of(object_of(place, "Deployment", "laconic"))
    assert pod is not None
    (container,) = pod["containers"]
    settings = config.load([flag for flag in container["args"][1:] if not flag.startswith("--family")])
    before = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert before + settings.drain_seconds + 10 <= pod["terminationGracePeriodSeconds"]


def test_a_gateway_without_keys_is_on_loopback_only_and_any_other_needs_one() -> None:
    hosts = {
        place: next(flag for flag in container["args"] if flag.startswith("--host="))
        for place in ("base", "overlays/dev", "overlays/production")
        for container in (pod_of(object_of(place, "Deployment", "laconic")) or {})["containers"]
    }
    assert hosts == {
        "base": "--host=0.0.0.0",
        "overlays/dev": "--host=127.0.0.1",
        "overlays/production": "--host=0.0.0.0",
    }


def probes(container: Object) -> dict[str, str]:
    """The path that each probe asks for."""
    paths: dict[str, str] = {}
    for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
        probe = container[kind]
        if "httpGet" in probe:
            assert probe["httpGet"]["port"] in {port["name"] for port in container["ports"]}
            paths[kind] = probe["httpGet"]["path"]
        else:
            _, _, code = probe["exec"]["command"]
            ast.parse(code)
            paths[kind] = re.findall(r"http://127.0.0.1:8080([\w/]+)", code)[0]
    return paths


@pytest.mark.parametrize("place", ["base", "overlays/dev", "overlays/production"])
def test_a_missing_engine_delays_a_new_gateway_and_stops_none(place: str) -> None:
    (container,) = (pod_of(object_of(place, "Deployment", "laconic")) or {})["containers"]
    live = "/health/live"
    assert probes(container) == {"startupProbe": "/health/ready", "readinessProbe": live, "livenessProbe": live}


def test_the_probed_paths_are_the_gateways() -> None:
    document = (ROOT / "docs/openapi.json").read_text()
    assert '"/health/live"' in document
    assert '"/health/ready"' in document
    assert '"/metrics"' in document


def test_the_images_are_those_of_compose_and_of_the_dockerfile() -> None:
    images = {container["image"] for name in PODS for container in containers(PODS[name])}
    others = {COMPOSE[name]["image"] for name in ("engine", "redis")}
    ours = {image for image in images if image.rsplit("/", 1)[-1].split(":")[0] == "laconic"}
    assert images == others | ours
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert 'ENTRYPOINT ["laconic"]' in dockerfile
    (user,) = re.findall(r"useradd .*--uid (\d+) laconic", dockerfile)
    for name, pod in PODS.items():
        if any(container["image"] in ours and "gateway" in container["name"] for container in containers(pod)):
            assert pod["securityContext"]["runAsUser"] == int(user), name


def test_the_engine_reads_what_its_init_container_writes(tmp_path: Path) -> None:
    pod = pod_of(object_of("base", "Deployment", "laconic-engine"))
    assert pod is not None
    (first,), (engine,) = pod["initContainers"], pod["containers"]
    output = first["args"][-1]
    assert engine["args"][:2] == ["--config", output]
    arguments = [str(config.shipped_family()) if word == "/family" else word for word in first["args"][:-1]]
    cli.main([*arguments[:2], "--at", "/family", *arguments[2:], str(tmp_path / "vllm.yaml")])
    options = yaml.safe_load((tmp_path / "vllm.yaml").read_text())
    assert options["model"].startswith("/family/")
    assert "port" not in options
    port = engine["args"][engine["args"].index("--port") + 1]
    assert [one["containerPort"] for one in engine["ports"]] == [int(port)]


def test_the_dev_overlay_takes_the_family_out_of_the_image() -> None:
    pod = pod_of(object_of("overlays/dev", "Deployment", "laconic-engine"))
    assert pod is not None
    first, second = pod["initContainers"]
    (code,) = re.findall(r"python -c '([^']+)'", first["args"][0])
    names: dict[str, Any] = {"print": lambda path: names.update(printed=path)}
    exec(code, names)
    assert families.load(names["printed"], verify=False).base is not None
    assert second["name"] == "engine-args"
    assert "persistentVolumeClaim" not in str(pod["volumes"])


@pytest.mark.parametrize("place", ["base", "overlays/dev", "overlays/production"])
def test_every_selector_finds_the_pods_that_it_means(place: str) -> None:
    labels = {
        one["metadata"]["name"]: one["spec"]["template"]["metadata"]["labels"]
        for one in OBJECTS[place]
        if one["kind"] in {"Deployment", "StatefulSet"}
    }
    for one in OBJECTS[place]:
        if one["kind"] in {"Service", "Deployment", "StatefulSet", "PodDisruptionBudget"}:
            selector = one["spec"]["selector"]
            wanted = selector.get("matchLabels", selector)
            found = [name for name, own in labels.items() if wanted.items() <= own.items()]
            assert found == [one["metadata"]["name"]], one["metadata"]["name"]
    names = {one["metadata"]["name"] for one in OBJECTS[place] if one["kind"] == "ServiceAccount"}
    assert {pod["serviceAccountName"] for pod in (pod_of(one) for one in OBJECTS[place]) if pod} == names


def allowed() -> set[tuple[str, str, int]]:
    """Who may open a connection to which component's port, as far as both sides' policies allow it."""
    outgoing: set[tuple[str, str, int]] = set()
    incoming: set[tuple[str, str, int]] = set()
    for policy in (one["spec"] for one in OBJECTS["base"] if one["kind"] == "NetworkPolicy"):
        for mine in components(policy["podSelector"]):
            for direction, sides, peers in (("egress", outgoing, "to"), ("ingress", incoming, "from")):
                for rule in policy.get(direction, []):
                    for peer in rule[peers]:
                        for other in components(peer["podSelector"]) if "podSelector" in peer else []:
                            pair = (mine, other) if direction == "egress" else (other, mine)
                            sides |= {(*pair, port["port"]) for port in rule["ports"]}
    return outgoing & incoming


def components(selector: Object) -> list[str]:
    label = "app.kubernetes.io/component"
    wanted = [value for one in selector.get("matchExpressions", []) if one["key"] == label for value in one["values"]]
    return [*wanted, *([selector["matchLabels"][label]] if label in selector.get("matchLabels", {}) else [])]


def test_only_gateways_reach_engines_and_only_gateways_and_the_admin_s_pod_reach_redis() -> None:
    assert allowed() == {("gateway", "engine", 8000), ("gateway", "redis", 6379), ("admin", "redis", 6379)}
    (nobody,) = [one["spec"] for one in OBJECTS["base"] if one["metadata"]["name"] == "laconic-nobody"]
    assert nobody["policyTypes"] == ["Ingress", "Egress"]
    assert not {"ingress", "egress"} & set(nobody)
    for name, one in EVERY.items():
        if pod_of(one) is not None:
            made = one if one["kind"] == "Pod" else one["spec"]["template"]
            assert made["metadata"]["labels"].items() >= nobody["podSelector"]["matchLabels"].items(), name


def test_prometheus_scrapes_the_gateways_with_a_key_from_a_secret() -> None:
    monitor = object_of("overlays/production", "ServiceMonitor", "laconic")
    service = object_of("overlays/production", "Service", "laconic")
    assert monitor["apiVersion"] == "monitoring.coreos.com/v1"
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    (endpoint,) = monitor["spec"]["endpoints"]
    assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}
    assert endpoint["path"] == "/metrics"
    assert endpoint["authorization"]["credentials"] == {"name": "laconic-metrics", "key": "token"}
    assert "create secret generic laconic-metrics " in (ROOT / "docs/how-to/kubernetes.md").read_text()


def test_the_route_publishes_the_apis_and_no_operator_s_path() -> None:
    (route,) = OBJECTS["examples/httproute.yaml"]
    assert route["apiVersion"] == "gateway.networking.k8s.io/v1"
    (rule,) = route["spec"]["rules"]
    paths = {match["path"]["value"] for match in rule["matches"]}
    assert paths == {*SURFACES, "/v1/models", "/v1/feedback", "/v1/usage"}
    service = object_of("overlays/production", "Service", "laconic")
    (backend,) = rule["backendRefs"]
    assert backend == {"name": service["metadata"]["name"], "port": service["spec"]["ports"][0]["port"]}
    assert route["metadata"]["namespace"] == service["metadata"]["namespace"]


def test_the_admin_s_pod_sees_the_family_because_keys_may_name_its_checkpoints() -> None:
    (pod,) = OBJECTS["examples/admin-pod.yaml"]
    (admin,) = pod["spec"]["containers"]
    (gateway,) = object_of("base", "Deployment", "laconic")["spec"]["template"]["spec"]["containers"]
    family = {one["name"]: one.get("value") for one in admin["env"]}["LACONIC_FAMILY"]
    assert f"--family={family}" in gateway["args"]
    (mount,) = admin["volumeMounts"]
    assert mount in gateway["volumeMounts"]
    assert mount["mountPath"] == family
    (volume,) = pod["spec"]["volumes"]
    assert volume["persistentVolumeClaim"] == {"claimName": "laconic-family", "readOnly": True}


def test_the_pool_is_of_our_engines() -> None:
    pool, route = OBJECTS["examples/inference-pool.yaml"]
    assert (pool["apiVersion"], pool["kind"]) == ("inference.networking.k8s.io/v1", "InferencePool")
    assert set(pool["spec"]) == {"selector", "targetPorts", "endpointPickerRef"}
    engine = object_of("base", "Deployment", "laconic-engine")
    assert pool["spec"]["selector"]["matchLabels"] == engine["spec"]["selector"]["matchLabels"]
    (container,) = engine["spec"]["template"]["spec"]["containers"]
    assert pool["spec"]["targetPorts"] == [{"number": container["ports"][0]["containerPort"]}]
    (backend,) = route["spec"]["rules"][0]["backendRefs"]
    assert (backend["group"], backend["kind"], backend["name"]) == (
        pool["apiVersion"].split("/")[0],
        pool["kind"],
        pool["metadata"]["name"],
    )
