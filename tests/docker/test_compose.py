"""docker/compose.yaml parses, gives what is meant for each profile, and is hardened throughout. No engine needed."""

import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.settings import Settings, named
from tests.docker.reading import DOCKER, ROOT, compose, dotenv, environment, fill, variables

EXAMPLE = (DOCKER / ".env.example").read_text()
BALANCED = "COMPOSE_PROFILES=cpu,balancer\nLEPO_API_PUBLISH=127.0.0.1:0:8000\nLEPO_REPLICAS=3\n"
GPU = "COMPOSE_PROFILES=gpu\n"
WATCHED = "COMPOSE_PROFILES=cpu,tls,monitoring\n"
ALWAYS = {"postgres", "redis", "migrate", "beat"}
SERVICES = {
    EXAMPLE: ALWAYS | {"api", "worker"},
    EXAMPLE + BALANCED: ALWAYS | {"api", "worker", "balancer"},
    EXAMPLE + GPU: ALWAYS | {"api-gpu", "worker-gpu"},
    EXAMPLE + WATCHED: ALWAYS | {"api", "worker", "proxy", "prometheus", "grafana"},
}
USERS = {  # of images that are not ours; the proxy's has no other, and no capability but to bind ports
    "postgres": "postgres",
    "redis": "redis",
    "balancer": "haproxy",
    "prometheus": "nobody",
    "grafana": "472",
    "proxy": "root",
}
PINNED = {  # the same whatever .env says: these are addresses inside
    "LEPO_HOST": {"0.0.0.0"},
    "LEPO_PORT": {"8000"},
    "LEPO_VAR_DIR": {"/var/lib/lepo", "/tmp/lepo"},
}
NOT_OURS = {"COMPOSE_PROFILES", "TORCH_INDEX_URL"}
FORMS = {"cors_origins": "https://chat.example", "traces": "file:///data/traces"}  # of settings that are not any text


@pytest.fixture(params=SERVICES, ids=["cpu", "balancer", "gpu", "watched"])
def env(request: pytest.FixtureRequest) -> str:
    chosen: str = request.param
    return chosen


def test_variables_are_filled_in_as_compose_does() -> None:
    env = {"A": "1", "EMPTY": ""}
    assert fill("${A}-${NONE}-$$x", env) == "1--$x"
    assert fill("${EMPTY:-d}:${NONE:-e:${A:-f}:${NONE:-g}}", env) == "d:e:1:g"
    assert dotenv("# no\nA=1\n\nA=2\nB=x=y\n") == {"A": "2", "B": "x=y"}


def schema_says(file: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(file)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_file_is_of_the_compose_schema(tmp_path: Path) -> None:
    assert (said := schema_says(DOCKER / "compose.yaml")).returncode == 0, said.stdout
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text((DOCKER / "compose.yaml").read_text().replace("read_only: true", "readonly: true", 1))
    assert schema_says(wrong).returncode == 1, "the schema is looked at"


def test_each_profile_gives_its_services_and_is_of_the_schema(env: str, tmp_path: Path) -> None:
    document = compose(env)
    assert set(document["services"]) == SERVICES[env]
    resolved = tmp_path / "resolved.yaml"
    resolved.write_text(yaml.safe_dump(document))
    assert (said := schema_says(resolved)).returncode == 0, said.stdout
    for name, service in document["services"].items():
        needed = set(service.get("depends_on", {}))
        assert needed <= SERVICES[env], f"{name} waits for what its profile does not start"


@pytest.mark.parametrize(
    ("more", "published"),
    [
        ("", {"api": ["127.0.0.1:8000:8000"]}),
        ("LEPO_BIND=0.0.0.0\nLEPO_PORT=80\n", {"api": ["0.0.0.0:80:8000"]}),
        (GPU, {"api-gpu": ["127.0.0.1:8000:8000"]}),
        (BALANCED, {"api": ["127.0.0.1:0:8000"], "balancer": ["127.0.0.1:8000:8000"]}),
        (
            BALANCED + "LEPO_BIND=0.0.0.0\nLEPO_PORT=80\n",
            {"api": ["127.0.0.1:0:8000"], "balancer": ["0.0.0.0:80:8000"]},
        ),
        (
            WATCHED + "LEPO_GRAFANA_PORT=3001\nLEPO_TLS_BIND=192.0.2.1\n",
            {
                "api": ["127.0.0.1:8000:8000"],
                "grafana": ["127.0.0.1:3001:3000"],
                "proxy": ["192.0.2.1:443:8443", "192.0.2.1:80:8080"],
            },
        ),
    ],
)
def test_one_port_is_published_where_the_settings_say(more: str, published: dict[str, list[str]]) -> None:
    services = compose(EXAMPLE + more)["services"]
    assert {name: service["ports"] for name, service in services.items() if "ports" in service} == published


def test_what_is_not_published_is_on_the_inner_network_alone(env: str) -> None:
    document = compose(env)
    assert document["networks"]["backend"] == {"internal": True}
    for name in ("postgres", "redis", "migrate", "beat"):
        assert list(document["services"][name]["networks"]) == ["backend"]
    for name in {"balancer", "proxy", "prometheus", "grafana"} & set(document["services"]):
        assert document["services"][name]["networks"] == ["front"], f"{name} cannot reach the database"


def test_every_service_is_hardened_and_bounded(env: str) -> None:
    for name, service in compose(env)["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service.get("cap_add", []) == (["NET_BIND_SERVICE"] if name == "proxy" else []), name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["init"] is True, name
        assert service["restart"] in {"unless-stopped", "on-failure:5"}, name
        assert re.fullmatch(r"\d+[mg]", service["mem_limit"]), name
        assert float(service["cpus"]) >= 0, name
        assert service["pids_limit"] > 0, name
        assert service["stop_grace_period"], name
        assert service["logging"]["options"]["max-size"], "a log that grows without end fills the disk"
        assert all("size=" in mount for mount in service.get("tmpfs", ())), name
        if not service["image"].startswith("lepo-service"):
            assert service["user"] == USERS[name], name


def test_images_that_are_not_ours_are_named_to_the_patch() -> None:
    dockerfile = (DOCKER / "Dockerfile").read_text()
    services = {**compose(EXAMPLE + BALANCED)["services"], **compose(EXAMPLE + WATCHED)["services"]}
    images = [service["image"] for service in services.values()]
    images += re.findall(r"^ARG PYTHON_IMAGE=(.+)$", dockerfile, re.MULTILINE)
    others = [image for image in images if not image.startswith("lepo-service")]
    assert len(others) == 7
    for image in others:
        assert re.fullmatch(r"[a-z/]+:v?\d+(\.\d+){2}(-[a-z-]+)?|postgres:\d+\.\d+-[a-z-]+", image), image


def test_redis_leaves_no_volume_behind() -> None:
    """Its image declares one at /data; a tmpfs in that place keeps the engine from making an anonymous one."""
    redis = compose(EXAMPLE)["services"]["redis"]
    assert [mount.split(":")[0] for mount in redis["tmpfs"]] == ["/data"]
    assert "volumes" not in redis


NO_DATABASE = {"redis", "balancer", "proxy", "prometheus", "grafana"}
EXCLUSIVE = (  # settings whose other values exclude each other
    {"SWAP_MODE": "drain", "CANARY_SHARE": "0.0", "SHADOW_SHARE": "0.0"},
    {"SWAP_MODE": "two_versions", "CANARY_SHARE": "0.2", "SHADOW_SHARE": "0.3"},
)


def other_values(chosen: Mapping[str, str]) -> str:
    """An .env that sets every setting to a valid value that is not its default, but for some that are chosen."""
    words = {
        **chosen,
        "DATABASE_URL": "postgresql+psycopg://lepo@db.example.org/x",
        "REDIS_URL": "redis://r.example.org/1",
        "MODEL": "/data/model",
        "VAR_DIR": "/elsewhere",
        "HOST": "10.0.0.1",
        "PORT": "80",
        "HELDOUT": "/data/heldout.jsonl",
        "ADMIN_KEY": "lepo-ops1-" + "s" * 32,
    }
    lines = []
    for name, field in Settings.model_fields.items():
        default, kind = field.default, str(field.annotation)
        if name.upper() in words:
            value = words[name.upper()]
        elif "Literal" in kind:
            value = next(word for word in re.findall(r"'(\w+)'", kind) if word != default)
        elif isinstance(default, bool):
            value = str(not default).lower()
        elif isinstance(default, int):
            value = str(default + 9)
        elif isinstance(default, float):
            value = str(1e6 if default == float("inf") else default * 0.875 or 0.125)
        elif "float" in kind:
            value = "9.5"
        else:
            value = FORMS.get(name, "something")
        lines.append(f"LEPO_{name.upper()}={value}\n")
    return "".join(lines)


@pytest.mark.parametrize(
    ("profile", "service"),
    [("cpu", "api"), ("cpu", "worker"), ("cpu", "beat"), ("cpu", "migrate"), ("gpu", "api-gpu"), ("gpu", "worker-gpu")],
)
def test_every_setting_in_env_arrives(profile: str, service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    changed: set[str] = set()
    for chosen in EXCLUSIVE:
        env = f"{EXAMPLE}COMPOSE_PROFILES={profile}\n{other_values(chosen)}"
        arrives = environment(compose(env)["services"][service], env)
        asked = dotenv(env)
        for name in named():
            if name in PINNED:
                assert arrives[name] in PINNED[name]
            else:
                assert arrives[name] == asked[name], name
            monkeypatch.setenv(name, arrives[name])
        read = Settings()
        changed |= {name for name, field in Settings.model_fields.items() if getattr(read, name) != field.default}
    assert len(changed) >= len(Settings.model_fields) - 1, "each of these values is one that the setting takes"


def test_an_unset_setting_is_left_to_its_default() -> None:
    bare = "COMPOSE_PROFILES=cpu\n"
    arrives = environment(compose(bare)["services"]["worker"], bare)
    assert {name for name in arrives if name.startswith("LEPO_")} == {*PINNED, "LEPO_DATABASE_URL", "LEPO_REDIS_URL"}


def test_the_example_names_what_there_is_and_says_where_the_rest_is() -> None:
    examples = set(re.findall(r"^#?([A-Z][A-Z_]+)=", EXAMPLE, re.MULTILINE))
    known = set(named()) | variables() | NOT_OURS
    assert examples <= known, "a name that nobody reads"
    assert variables() <= examples, "what the file asks for stands in the example"
    assert "docs/settings.md" in EXAMPLE
    for name in re.findall(r"^#?(LEPO_\w+)=", EXAMPLE, re.MULTILINE):
        assert name in known
    assert not any(word in EXAMPLE for word in ("ADMIN_KEY=", "PASSWORD=")), "secrets are files"


def test_secrets_are_files_that_neither_git_nor_a_build_sees(env: str) -> None:
    document = compose(env)
    assert document["secrets"] == {
        "lepo_database_password": {"file": "./secrets/database_password"},
        "lepo_admin_key": {"file": "./secrets/admin_key"},
        "lepo_grafana_password": {"file": "./secrets/grafana_password"},
    }
    for ignored in (ROOT / ".gitignore", ROOT / ".dockerignore"):
        assert {"docker/secrets", "docker/.env"} <= {line.rstrip("/") for line in ignored.read_text().splitlines()}
    for name, service in document["services"].items():
        given = set(service.get("secrets", ()))
        wanted: set[str] = set() if name in NO_DATABASE else {"lepo_database_password"}
        wanted |= {"lepo_admin_key"} if name.startswith("api") else set()
        assert given == wanted | ({"lepo_grafana_password"} if name == "grafana" else set()), name


def test_the_folder_for_heldout_prompts_is_there_and_read_only(env: str) -> None:
    for name, service in compose(env)["services"].items():
        if name.startswith(("api", "worker")):
            assert "./data:/data:ro" in service["volumes"]
    assert (DOCKER / "data" / ".gitignore").is_file(), "else the engine makes it, as root"


def test_server_and_learner_are_given_the_cards_that_are_named() -> None:
    def cards(more: str) -> dict[str, Any]:
        services = compose(EXAMPLE + GPU + more)["services"]
        return {
            name: service["deploy"]["resources"]["reservations"]["devices"][0]["device_ids"]
            for name, service in services.items()
            if "deploy" in service
        }

    assert cards("") == {"api-gpu": ["0"], "worker-gpu": ["0"]}, "one card, which docs/deploy.md plans for"
    assert cards("LEPO_API_GPU=2\nLEPO_WORKER_GPU=3\n") == {"api-gpu": ["2"], "worker-gpu": ["3"]}


def test_health_checks_suit_any_engine(env: str) -> None:
    for name, service in compose(env)["services"].items():
        if name == "migrate":
            continue
        check = service["healthcheck"]
        assert "start_interval" not in check, "engines before v25 refuse it"
        assert check["test"][0] in {"CMD", "CMD-SHELL"}
        if check["test"][0] == "CMD":
            assert not any(" " in word for word in check["test"]), "podman splits words with spaces"
    postgres = compose(env)["services"]["postgres"]["healthcheck"]["test"][1]
    assert "--host 127.0.0.1" in postgres, "the socket answers while the database is still being made"


def test_replicas_can_be_kept_in_env() -> None:
    assert compose(EXAMPLE + BALANCED)["services"]["api"]["scale"] == "3"
    assert compose(EXAMPLE)["services"]["api"]["scale"] == "1"


def test_the_balancer_waits_longer_than_any_answer_and_asks_ready() -> None:
    config = (DOCKER / "haproxy.cfg").read_text()
    waits = re.search(r"timeout server (\d+)s", config)
    assert waits
    assert int(waits[1]) >= Settings().request_deadline
    assert "httpchk GET /ready" in config
    assert "api:8000" in config, "the name that both profiles answer to"
    for name, more in (("api", BALANCED), ("api-gpu", GPU)):
        assert compose(EXAMPLE + more)["services"][name]["networks"]["front"] == {"aliases": ["api"]}


def test_limits_of_processors_arrive() -> None:
    services = compose(EXAMPLE + "LEPO_API_CPUS=1.5\nLEPO_WORKER_CPUS=2\n")["services"]
    assert {name: services[name]["cpus"] for name in ("api", "worker", "postgres")} == {
        "api": "1.5",
        "worker": "2",
        "postgres": "0",
    }


def test_a_server_believes_the_proxies_that_are_named() -> None:
    def believed(more: str) -> str:
        return environment(compose(EXAMPLE + more)["services"]["api"], EXAMPLE)["FORWARDED_ALLOW_IPS"]

    assert believed("") == "127.0.0.1"
    assert believed("LEPO_PROXIES=*\n") == "*"
