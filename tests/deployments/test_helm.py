"""The Helm chart renders what Kubernetes takes, runs what there is, keeps secrets apart, and says what is wrong.

Rendered by `helm`, which is installed with everything else on Linux on x86-64. Elsewhere these tests are skipped unless
one is on the path, and say so; BREAKER_REQUIRE_HELM=1 makes that a failure.
"""

from __future__ import annotations

import importlib.util
import itertools
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import kubernetes_validate
import prefect.settings
import pytest
import typer.main
import yaml
from kubernetes_validate.utils import latest_version
from pydantic import BaseModel, SecretStr

from cli.app import command_line
from configuration.accounts import AccountSettings
from configuration.console import OidcSettings
from configuration.redis_settings import RedisSettings
from configuration.settings import KillSettings, NotificationSettings, Settings, load_settings
from configuration.unknown_variables import unknown_variables
from console.serve import check_address

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deployments" / "helm" / "breaker"
RULES = ROOT / "deployments" / "prometheus" / "rules.yml"
COMMANDS: Any = typer.main.get_command(command_line())
OPERATOR = "monitoring.coreos.com/v1"
"""The Prometheus operator's kinds, of which Kubernetes has no schema."""

Values = Mapping[str, Any]
Object = dict[str, Any]

EVERYTHING: Values = yaml.safe_load("""
image:
  repository: registry.internal/breaker
  digest: sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef
  pullSecrets: [{name: registry}]
environment: production
config:
  {quiet_period: 60, kill: {deadline: 120.5}, recovery: {two_person: true}, rules: {"account:ALPHA": {api_errors: 20}}}
ledgerKey: {existingSecret: breaker-ledger-key}
prefect: {authString: {existingSecret: prefect-auth}}
accounts:
  - {name: ALPHA, baseUrl: "https://paper-api.alpaca.markets", existingSecret: breaker-alpha}
  - {name: BETA, baseUrl: "https://paper-api.alpaca.markets", existingSecret: breaker-beta, keyIdKey: id,
     secretKeyKey: secret, adapter: alpaca, requestTimeout: 2.5, requestsPerMinute: 1000000}
notifications:
  {slack: {existingSecret: slack}, pagerduty: {existingSecret: pagerduty}, others: {existingSecret: others}}
console:
  trustedProxies: [10.0.3.0/24]
  names: [breaker.example.com]
  state: {persistent: true, storageClass: fast}
  oidc: {issuer: "https://id.example.com/realms/desk", clientId: breaker, publicUrl: "https://breaker.example.com",
         roles: {risk: risk_manager}, existingSecret: breaker-oidc}
  podLabels: {team: risk}
  podAnnotations: {note: text}
services: {state: {persistent: true}}
workers:
  {nodeSelector: {kind: trading}, tolerations: [{key: trading, operator: Exists}], affinity: {nodeAffinity: {}},
   priorityClassName: high}
exporter: {replicas: 2}
metrics:
  serviceMonitor: {enabled: true, labels: {release: prometheus}}
  prometheusRule: {enabled: true, labels: {release: prometheus}}
networkPolicy:
  egress: {enabled: true, rules: [{to: [{ipBlock: {cidr: 10.0.5.10/32}}], ports: [{protocol: TCP, port: 6379}]}]}
extraEnv: [{name: PREFECT_API_SSL_CERT_FILE, value: /etc/authority/ca.crt}]
extraVolumes: [{name: authority, configMap: {name: authority}}]
extraVolumeMounts: [{name: authority, mountPath: /etc/authority, readOnly: true}]
""")
"""With everything turned on that is off, or empty, unless it is asked for."""
NOTHING: Values = {
    name: {"enabled": False} for name in ("console", "services", "workers", "standby", "exporter", "networkPolicy")
} | {"jobs": {"migrate": False, "deploy": False}}
PROXIED: Values = {"console": {"tls": {"existingSecret": ""}, "trustedProxies": ["10.0.3.0/24"], "replicas": 1}}
SETS: Mapping[str, Values] = {"defaults": {}, "everything": EVERYTHING, "nothing": NOTHING, "proxied": PROXIED}


class Helm:
    """The chart, as `helm` sees it."""

    def __init__(self, program: str, folder: Path) -> None:
        self._program, self._folder = program, folder
        self._rendered: dict[str, list[Object]] = {}

    def run(
        self, command: Sequence[str | Path], values: Values, chart: Path = CHART
    ) -> subprocess.CompletedProcess[str]:
        file = self._folder / "values.yaml"
        file.write_text(yaml.safe_dump(dict(values)))
        called = [self._program, *command, chart, "--values", file]
        home = {f"HELM_{each}_HOME": str(self._folder) for each in ("CACHE", "CONFIG", "DATA")}
        return subprocess.run(called, env=os.environ | home, capture_output=True, text=True, check=False, timeout=60)

    def objects(self, name: str) -> list[Object]:
        if name not in self._rendered:
            done = self.run(["template", "release"], SETS[name])
            assert done.returncode == 0, done.stderr
            self._rendered[name] = [each for each in yaml.safe_load_all(done.stdout) if each]
        return self._rendered[name]


@pytest.fixture(scope="module")
def helm(tmp_path_factory: pytest.TempPathFactory) -> Helm:
    program = shutil.which("helm", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if program is None:
        reason = "helm is not installed, and has no wheel for this machine, so the chart was not rendered"
        if os.environ.get("BREAKER_REQUIRE_HELM") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    return Helm(program, tmp_path_factory.mktemp("helm"))


each_set = pytest.mark.parametrize("values", SETS)
each_full_set = pytest.mark.parametrize("values", ["defaults", "everything", "proxied"])


def pods(objects: Sequence[Object]) -> Iterator[tuple[str, Object]]:
    """Each pod's component and specification."""
    for each in objects:
        template = each.get("spec", {}).get("template")
        if template:
            yield template["metadata"]["labels"]["app.kubernetes.io/component"], template["spec"]


def containers(objects: Sequence[Object]) -> Iterator[tuple[str, Object]]:
    for component, pod in pods(objects):
        for container in pod["containers"]:
            yield component, container


def of_kind(objects: Sequence[Object], kind: str) -> list[Object]:
    return [each for each in objects if each["kind"] == kind]


# --- what Kubernetes takes --------------------------------------------------------------------------------------------


@each_set
def test_lint_has_nothing_to_say(helm: Helm, values: str) -> None:
    done = helm.run(["lint", "--strict"], SETS[values])
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[WARNING]" not in done.stdout


@each_set
def test_every_object_is_valid_for_the_oldest_and_the_newest_kubernetes(helm: Helm, values: str) -> None:
    wanted = yaml.safe_load((CHART / "Chart.yaml").read_text())["kubeVersion"]
    oldest = wanted.removeprefix(">=").removesuffix(".0-0")
    for version in (oldest, latest_version()) if values == "everything" else (oldest,):
        for each in helm.objects(values):
            if each["apiVersion"] != OPERATOR:
                kubernetes_validate.validate(each, version, strict=True)


@each_set
def test_no_two_objects_have_the_same_name(helm: Helm, values: str) -> None:
    names = [(each["kind"], each["metadata"]["name"]) for each in helm.objects(values)]
    assert len(names) == len(set(names))


def test_there_is_all_that_a_desk_needs(helm: Helm) -> None:
    assert {component for component, _ in pods(helm.objects("defaults"))} == {
        "console", "services", "workers", "standby", "exporter", "migrate", "deploy",
    }  # fmt: skip
    assert list(pods(helm.objects("nothing"))) == []


@each_full_set
def test_whatever_selects_something_finds_it(helm: Helm, values: str) -> None:
    objects = helm.objects(values)
    templates = [each["spec"]["template"] for each in objects if "template" in each.get("spec", {})]
    services = [each for each in of_kind(objects, "Service") if each["spec"].get("clusterIP") != "None"]

    def selected(selector: Mapping[str, str], candidates: Sequence[Object]) -> list[Object]:
        return [each for each in candidates if selector.items() <= each["metadata"]["labels"].items()]

    for service in services:
        (template,) = selected(service["spec"]["selector"], templates)
        ports = {port["name"] for each in template["spec"]["containers"] for port in each["ports"]}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports
    for budget in of_kind(objects, "PodDisruptionBudget"):
        assert len(selected(budget["spec"]["selector"]["matchLabels"], templates)) == 1
    for policy in of_kind(objects, "NetworkPolicy"):
        found = selected(policy["spec"]["podSelector"]["matchLabels"], templates)
        let_in = {port["port"] for rule in policy["spec"].get("ingress", ()) for port in rule["ports"]}
        listening = (container.get("ports", ()) for each in found for container in each["spec"]["containers"])
        assert found and let_in <= {port["name"] for ports in listening for port in ports}
    for workload in (*of_kind(objects, "Deployment"), *of_kind(objects, "StatefulSet")):
        assert selected(workload["spec"]["selector"]["matchLabels"], templates) == [workload["spec"]["template"]]
    for monitor in of_kind(objects, "ServiceMonitor"):
        (scraped,) = selected(monitor["spec"]["selector"]["matchLabels"], services)
        assert monitor["spec"]["endpoints"][0]["port"] in {port["name"] for port in scraped["spec"]["ports"]}


@each_full_set
def test_what_is_mounted_is_there_and_what_a_statefulset_names_too(helm: Helm, values: str) -> None:
    objects = helm.objects(values)
    for each in objects:
        if "template" in each.get("spec", {}):
            claimed = {claim["metadata"]["name"] for claim in each["spec"].get("volumeClaimTemplates", ())}
            pod = each["spec"]["template"]["spec"]
            mounted = {mount["name"] for container in pod["containers"] for mount in container["volumeMounts"]}
            assert mounted == claimed | {volume["name"] for volume in pod["volumes"]}
    headless = {each["metadata"]["name"] for each in of_kind(objects, "Service") if each["spec"].get("clusterIP")}
    assert headless == {each["spec"]["serviceName"] for each in of_kind(objects, "StatefulSet")}


# --- what runs --------------------------------------------------------------------------------------------------------


@each_full_set
def test_each_container_runs_a_command_that_there_is(helm: Helm, values: str) -> None:
    for component, container in containers(helm.objects(values)):
        probes = [container[each]["exec"]["command"] for each in container if "exec" in (container[each] or ())]
        for program, *arguments in (container["args"], *probes):
            match program:
                case "breaker":
                    command = COMMANDS
                    for argument in arguments:
                        command = command.commands[argument]
                case "python":
                    assert arguments[0] == "-m" and importlib.util.find_spec(arguments[1]) is not None
                    if arguments[1] == "services.pool_worker":
                        options = {each for each in arguments if each.startswith("--")}
                        assert options <= set(re.findall(r"--[a-z-]+", prefect_worker_options()))
                case _:
                    assert program == "/bin/sh" and component == "deploy"


def prefect_worker_options() -> str:
    spec = importlib.util.find_spec("prefect.cli.worker")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).read_text()


def test_the_job_that_deploys_gives_prefect_yaml_what_it_asks_for(helm: Helm) -> None:
    (container,) = (each for component, each in containers(helm.objects("defaults")) if component == "deploy")
    script = container["args"][-1]
    file = ROOT / shlex.split(script.rsplit("--prefect-file", 1)[1])[0]
    asked = set(re.findall(r"{{ \$(\w+) }}", file.read_text()))
    given = {each["name"] for each in container["env"] if each.get("value")}
    assert asked <= given | set(re.findall(r"export (\w+)", script))
    checked = subprocess.run(["/bin/sh", "-n", "-c", script], capture_output=True, text=True, check=False, timeout=20)
    assert checked.returncode == 0, checked.stderr


@each_full_set
def test_each_process_starts_with_what_it_is_given(
    helm: Helm, values: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    objects = helm.objects(values)
    (configuration,) = of_kind(objects, "ConfigMap")
    file = tmp_path / "breaker.toml"
    file.write_text(configuration["data"]["breaker.toml"])
    for component, container in containers(objects):
        with monkeypatch.context() as patch:
            for name in [name for name in os.environ if name.startswith("BREAKER_")]:
                patch.delenv(name)
            for each in container["env"]:
                if each["name"].startswith("PREFECT_"):
                    assert getattr(prefect.settings, each["name"], None) is not None, each["name"]
                else:
                    patch.setenv(each["name"], value_of(each, file))
            assert unknown_variables() == []
            settings = load_settings()
        if component in ("console", "services", "workers", "standby"):
            named = {each["name"] for each in SETS[values].get("accounts", ())}
            assert settings.accounts.keys() == named
            assert settings.console.metrics_host == "release-breaker-exporter"
        if component == "console":
            check_address(settings.console)
            assert {"release-breaker-console.default.svc"} <= set(settings.console.names)
            assert bool(settings.console.oidc) is (values == "everything")
        if component == "exporter":
            assert settings.accounts == {}
            assert (settings.console.metrics_host, settings.console.metrics_port) == ("0.0.0.0", 8503)
        if component not in ("migrate", "deploy") and values == "everything":
            assert (settings.quiet_period, settings.environment) == (60, "production")
            assert settings.rules["account:ALPHA"].api_errors == 20


def value_of(variable: Object, file: Path) -> str:
    if variable["name"] == "BREAKER_CONFIG":
        return str(file)
    if "value" in variable:
        return str(variable["value"])
    return {"BREAKER_REDIS_URL": "redis://redis:6379", "BREAKER_NOTIFICATIONS__OTHERS": "[]"}.get(variable["name"], "x")


def test_a_kill_switch_has_time_to_end(helm: Helm) -> None:
    settings = KillSettings()
    longest = settings.deadline + settings.guard + settings.record_wait
    for component, pod in pods(helm.objects("defaults")):
        if component in ("console", "workers", "standby"):
            assert pod["terminationGracePeriodSeconds"] > longest, component


def test_nothing_restarts_what_may_be_at_a_kill_switch_because_a_server_is_away(helm: Helm) -> None:
    for component, container in containers(helm.objects("defaults")):
        if component in ("services", "workers", "standby"):
            assert "livenessProbe" not in container
            assert "readinessProbe" in container


def test_versions_and_user_are_those_of_project_and_image(helm: Helm) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (version, version)
    (user,) = re.findall(r"^USER (\d+):(\d+)$", (ROOT / "deployments" / "Dockerfile").read_text(), re.MULTILINE)
    for _, pod in pods(helm.objects("defaults")):
        context = pod["securityContext"]
        assert (context["runAsUser"], context["runAsGroup"]) == tuple(map(int, user))
    images = {container["image"] for _, container in containers(helm.objects("defaults"))}
    assert images == {f"trading-breaker:{version}"}
    digests = {container["image"] for _, container in containers(helm.objects("everything"))}
    assert digests == {f"registry.internal/breaker@{EVERYTHING['image']['digest']}"}


# --- what it may do, and who knows what -------------------------------------------------------------------------------


@each_full_set
def test_no_pod_may_do_more_than_it_needs(helm: Helm, values: str) -> None:
    for component, pod in pods(helm.objects(values)):
        context = pod["securityContext"]
        assert context["runAsNonRoot"] is True and context["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        assert pod["enableServiceLinks"] is False, f"{component} would get BREAKER_… variables of Kubernetes' making"
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
        assert not any("hostPath" in volume for volume in pod["volumes"])
        for container in pod["containers"]:
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False and context["privileged"] is False
            assert context["readOnlyRootFilesystem"] is True and context["capabilities"] == {"drop": ["ALL"]}
            assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
            assert "memory" in container["resources"]["limits"]


def secret_names(model: type[BaseModel]) -> set[str]:
    """The names of all keys of the configuration, however deep, whose values are secrets."""
    found: set[str] = set()
    for name, field in model.model_fields.items():
        for kind in _kinds(field.annotation):
            if kind is SecretStr:
                found.add(name)
            elif isinstance(kind, type) and issubclass(kind, BaseModel):
                found |= secret_names(kind)
    return found


def _kinds(annotation: Any) -> Iterator[Any]:
    yield annotation
    for inner in get_args(annotation):
        yield from _kinds(inner)


SECRETS = sorted(secret_names(Settings))
IN_THE_URL = secret_names(RedisSettings)
"""Come with the URL of Redis."""


def test_there_are_the_secrets_that_are_known_of() -> None:
    models = (AccountSettings, NotificationSettings, OidcSettings, RedisSettings)
    known = {name for model in models for name in secret_names(model)}
    assert {*known, "redis_url", "database_url", "ledger_key"} == set(SECRETS)


@each_full_set
def test_every_secret_comes_by_reference(helm: Helm, values: str) -> None:
    objects = helm.objects(values)
    assert of_kind(objects, "Secret") == []
    ends = tuple(name.upper() for name in (*SECRETS, "auth_string") if name not in IN_THE_URL)
    by_reference = set()
    for _, container in containers(objects):
        for each in container["env"]:
            if each["name"].endswith(ends):
                assert "value" not in each and each["valueFrom"].keys() == {"secretKeyRef"}, each["name"]
                by_reference.add(each["name"])
    assert {"BREAKER_REDIS_URL", "BREAKER_DATABASE_URL"} <= by_reference
    if values == "everything":
        assert {end for end in ends if any(name.endswith(end) for name in by_reference)} == set(ends)


def test_only_the_migration_knows_the_owner_and_only_what_acts_the_venues_keys(helm: Helm) -> None:
    for component, container in containers(helm.objects("everything")):
        named = {
            each["valueFrom"]["secretKeyRef"]["name"]
            for each in container["env"]
            if "secretKeyRef" in each.get("valueFrom", ())
        }
        assert ("breaker-database-owner" in named) is (component == "migrate"), component
        assert ("breaker-alpha" in named) is (component in ("console", "services", "workers", "standby")), component
        assert ("breaker-oidc" in named) is (component == "console"), component


def test_nobody_gets_in_but_to_console_and_metrics(helm: Helm) -> None:
    policies = {each["metadata"]["name"]: each["spec"] for each in of_kind(helm.objects("defaults"), "NetworkPolicy")}
    everybody = policies.pop("release-breaker")
    assert everybody["policyTypes"] == ["Ingress"] and "ingress" not in everybody
    assert policies.keys() == {"release-breaker-console", "release-breaker-exporter"}
    for policy in policies.values():
        (rule,) = policy["ingress"]
        assert rule["from"] and rule["ports"], "an empty list is everybody"
    (egress,) = (
        each["spec"]
        for each in of_kind(helm.objects("everything"), "NetworkPolicy")
        if each["metadata"]["name"].endswith("-egress")
    )
    assert egress["policyTypes"] == ["Egress"]
    assert EVERYTHING["networkPolicy"]["egress"]["rules"][0] in egress["egress"]


# --- what is said -----------------------------------------------------------------------------------------------------


def test_the_alerts_are_those_of_prometheus(helm: Helm) -> None:
    (rule,) = of_kind(helm.objects("everything"), "PrometheusRule")
    assert rule["spec"] == yaml.safe_load(RULES.read_text())
    assert (CHART / "files" / "rules.yml").resolve() == RULES


def test_the_notes_name_the_next_steps_and_no_command_that_there_is_not(helm: Helm, tmp_path: Path) -> None:
    chart = tmp_path / "breaker"
    shutil.copytree(CHART, chart)
    (chart / "templates" / "shown.yaml").write_text(
        'notes: {{ include (print $.Template.BasePath "/NOTES.txt") . | quote }}'
    )
    kind = {"standby": {"state": {"persistent": False}}}
    for values, named in ((kind, "deployment/release-breaker-standby"), ({}, "statefulset/release-breaker-standby")):
        done = helm.run(["template", "release", "--show-only", "templates/shown.yaml"], values, chart)
        assert named in done.stdout
    assert done.returncode == 0, done.stderr
    notes = yaml.safe_load(done.stdout)["notes"]
    run = re.findall(r"-- breaker (\w+)", notes)
    assert run == ["init", "doctor", "drill"] and set(run) <= COMMANDS.commands.keys()
    secrets = ("breaker-redis", "breaker-database", "breaker-console", "breaker-console-tls")
    assert all(name in notes for name in secrets)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"consol": {}}, "consol is not allowed"),
        ({"console": {"replica": 3}}, "replica is not allowed"),
        ({"console": {"replicas": 0}}, "console.replicas: Must be greater than or equal to 1"),
        ({"console": {"replicas": "2"}}, "console.replicas: Invalid type. Expected: integer, given: string"),
        ({"console": {"tls": {"existingSecret": ""}}}, "passwords would travel unencrypted. Set console.tls"),
        ({"console": {"signingKey": {"existingSecret": ""}}}, "several replicas need the same key"),
        ({"console": {"oidc": {"issuer": "https://id.example.com"}}}, "console.oidc"),
        ({"console": {"oidc": {"roles": {"risk": "boss"}}}}, "console.oidc.roles.risk must be one of"),
        ({"console": {"resources": None}}, "console: resources is required"),
        ({"redis": {"existingSecret": "redis://:s3cret@redis"}}, "never the secret itself"),
        ({"accounts": [{"name": "ALPHA"}]}, "accounts.0: existingSecret is required"),
        ({"prefect": {"apiUrl": "http://admin:s3cret@prefect/api"}}, "A password does not belong into it"),
        ({"prefect": {"apiUrl": "http://prefect:4200"}}, "http(s)://HOST:PORT/api"),
        ({"image": {"digest": "0123"}}, "image.digest"),
        ({"config": {"redis_url": "redis://:s3cret@redis"}}, 'config: "redis_url" would put a secret'),
        ({"config": "[accounts.ALPHA]\nbase_url = 'https://x'"}, "accounts are named under `accounts`"),
        ({"config": {"accounts": {"ALPHA": {"base_url": "https://x"}}}}, "accounts are named under `accounts`"),
        ({"config": "[console.oidc]\nissuer = 'https://x'"}, "configured under `console.oidc`"),
        ({"config": {"console": {"oidc": {"issuer": "https://x"}}}}, "configured under `console.oidc`"),
        ({"config": {"environment": "production"}}, "environment is the chart's to set"),
        ({"config": {"state_dir": "/data"}}, "state_dir is the chart's to set"),
        ({"config": 5}, "config: Invalid type"),
        ({"extraEnv": [{"name": "BREAKER_LEDGER_KEY", "value": "s3cret"}]}, "BREAKER_LEDGER_KEY holds a secret"),
        ({"extraEnv": [{"name": "A"}]}, "extraEnv.0"),
        ({"extraVolumes": [{"name": "host", "hostPath": {"path": "/"}}]}, "hostPath is not allowed"),
        ({"networkPolicy": {"egress": {"enabled": True}}}, "name them in networkPolicy.egress.rules"),
        ({"networkPolicy": {"consoleFrom": []}}, "networkPolicy.consoleFrom: Array must have at least 1 items"),
        ({"services": {"enabled": False}}, "no trip would start its recovery"),
        ({"exporter": {"enabled": False}, "metrics": {"serviceMonitor": {"enabled": True}}}, "nothing to scrape"),
    ],
    ids=lambda each: each[:40] if isinstance(each, str) else "",
)
def test_what_can_not_be_right_is_refused_and_said_without_the_secret(helm: Helm, given: Values, said: str) -> None:
    done = helm.run(["template", "release"], given)
    assert done.returncode != 0
    assert said in done.stderr
    assert "s3cret" not in done.stderr + done.stdout


WAYS = ('[table]\n{} = "s3cret"', 'table.{}="s3cret"', 'table = {{ "{}" = ["s3cret"] }}')


@pytest.mark.parametrize(("name", "written"), list(zip(SECRETS, itertools.cycle(WAYS), strict=False)))
def test_no_secret_gets_into_the_configuration(helm: Helm, name: str, written: str) -> None:
    done = helm.run(["template", "release"], {"config": written.format(name)})
    assert done.returncode != 0 and "would put a secret into a ConfigMap" in done.stderr
    assert "s3cret" not in done.stderr + done.stdout


def test_a_comment_may_name_a_secret(helm: Helm) -> None:
    done = helm.run(["template", "release"], {"config": "# redis_url = by the environment\nquiet_period = 60"})
    assert done.returncode == 0, done.stderr
