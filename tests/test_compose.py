"""What Docker is told agrees with the program: checks of the files that need no Docker."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

from worker import health
from worker.app import configuration
from worker.settings import General, load
from worker.supervisor import Supervisor, roles

ROOT = Path(__file__).parent.parent
ROLES = ("beat", "puller", "deliverer", "watcher")
PUSHED = {
    "MAILBOX__OFFICE__HOST": "imap.example.com",
    "MAILBOX__OFFICE__ADDRESS": "office@example.com",
    "MAILBOX__OFFICE__PASSWORD": "x",
    "MAILBOX__OFFICE__OUTPUTS": "archive",
    "MAILBOX__OFFICE__PUSH": "yes",
    "OUTPUT__ARCHIVE__TYPE": "jsonl",
    "OUTPUT__ARCHIVE__PATH": "mail.jsonl",
}
"""A mailbox for which every role runs."""
OURS = (*ROLES, "demo")
# Variables of Celery, which are not settings of ours.
FOREIGN = {"REMAP_SIGTERM"}


def text(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def services(**environ: str) -> dict[str, Any]:
    """The services, with `${VARIABLE:-default}` filled in as compose does it."""
    filled = re.sub(
        r"\$\{(\w+):-([^}]*)\}", lambda it: environ.get(it[1]) or it[2], text("docker-compose.yml")
    )
    assert "${" not in filled
    return dict(yaml.safe_load(filled)["services"])


@pytest.mark.parametrize("environ", [{}, {"PULL_CONCURRENCY": "16", "DELIVER_CONCURRENCY": "8"}])
def test_a_service_runs_the_command_of_its_role(environ: dict[str, str], tmp_path: Path) -> None:
    """`docker compose up` and `mailquay up` run the same processes, as many at a time as the settings say."""
    programs = {"celery": "celery", "worker.cli": "mailquay"}
    wanted = {
        role.name: [programs[role.command[2]], *role.command[3:]]
        for role in roles(load({**environ, **PUSHED}, cwd=tmp_path))
    }

    assert {name: services(**environ)[name]["command"].split() for name in wanted} == wanted
    assert set(wanted) == set(ROLES)


def test_every_variable_of_the_compose_file_is_a_setting() -> None:
    """Both those that it sets and those that it asks for."""
    names = {name.upper() for name in General.model_fields}
    asked = set(re.findall(r"\$\{(\w+)", text("docker-compose.yml")))
    said = {name for service in OURS for name in services()[service]["environment"]}

    assert (said | asked) - FOREIGN <= names
    assert {"REDIS_URL", "DATA_DIR", "ENV_FILE"} <= said


def test_the_watcher_comes_only_with_its_profile() -> None:
    """Nobody pays for it who lets no mailbox be watched; `up` decides that by itself."""
    assert {name: said["profiles"] for name, said in services().items() if "profiles" in said} == {
        "watcher": ["push"],
        "demo": ["demo"],
    }


def test_workers_are_ended_as_the_supervisor_ends_them(tmp_path: Path) -> None:
    """TERM means the bounded soft shutdown, and Docker's kill comes well after it."""
    soft = configuration(load({"REDIS_URL": "redis://redis:6379/0"}, cwd=tmp_path))[
        "worker_soft_shutdown_timeout"
    ]
    supervised = Supervisor((), {})._environ

    for service in ROLES:
        said = services()[service]
        assert said["environment"]["REMAP_SIGTERM"] == supervised["REMAP_SIGTERM"]
        assert int(said["stop_grace_period"].removesuffix("s")) >= soft + 10


def test_every_service_has_a_health_check_that_asks_about_its_work() -> None:
    """Each role asks about itself, by the verb that asks about finished work."""
    assert set(ROLES) == set(health.ROLES)
    for role in ROLES:
        assert services()[role]["healthcheck"]["test"] == ["CMD", "mailquay", "health", role]
    assert all("test" in service["healthcheck"] for service in services().values())


def test_no_service_has_more_rights_than_it_needs() -> None:
    """Nothing is published, nothing runs as root, and only volumes can be written."""
    for name, service in services().items():
        assert service["read_only"] is True, name
        assert service["init"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["restart"] == ("no" if name == "demo" else "unless-stopped"), name
        assert not {"ports", "privileged", "network_mode", "env_file"} & service.keys(), name
    assert services()["redis"]["user"] == "redis"
    assert re.findall(r"^USER (.+)$", text("Dockerfile"), re.MULTILINE)[-1] == "10001:10001"


def test_redis_keeps_what_it_was_told() -> None:
    """Append-only file, nothing evicted, and a volume that outlives the container."""
    redis = services()["redis"]
    options = dict(zip(redis["command"][1::2], redis["command"][2::2], strict=True))

    assert options == {
        "--appendonly": "yes",
        "--appendfsync": "everysec",
        "--save": "",
        "--maxmemory-policy": "noeviction",
    }
    assert redis["volumes"] == ["redis:/data"]


def test_the_images_are_plain_tags_that_a_test_can_stand_in_for() -> None:
    """No frontend, digest or forced pull; and no check in the image, which services could not be waited for then."""
    dockerfile = text("Dockerfile")

    assert not re.search(r"(?im)^\s*#\s*syntax\s*=|^HEALTHCHECK|@sha256:", dockerfile)
    version = re.findall(r"^ARG PYTHON_VERSION=(.+)$", dockerfile, re.MULTILINE)
    bases = re.findall(r"^FROM (\S+)", dockerfile, re.MULTILINE)
    assert version[0] in {"3.11", "3.12", "3.13"}
    assert bases == ["python:${PYTHON_VERSION}-slim"] * 2
    assert services()["redis"]["image"] == "redis:8-alpine"
    assert not re.search(r"pull_policy|pull: true|@sha256:", text("docker-compose.yml"))


def test_the_build_sees_only_what_it_copies() -> None:
    """A secret in the project's folder cannot get into an image."""
    lines = [line for line in text(".dockerignore").splitlines() if line and not line.startswith("#")]
    copied = {
        source
        for line in re.findall(r"^COPY (?!--from)(.+) \S+$", text("Dockerfile"), re.MULTILINE)
        for source in line.split()
    }

    assert lines[0] == "*"
    assert {line.removeprefix("!") for line in lines if line.startswith("!")} == copied


@pytest.mark.parametrize("path", ["requirements.lock", "requirements-dev.lock"])
def test_a_lock_pins_everything_by_hash_and_names_no_address(path: str) -> None:
    """Whoever installs gets what was tested, from an index of his own choice."""
    joined = re.sub(r"\\\n\s*", "", text(path))
    lines = [line for line in joined.splitlines() if line.strip() and not line.lstrip().startswith("#")]

    assert "://" not in text(path)
    assert [line for line in lines if not re.match(r"[\w.-]+(\[[\w,-]+\])?==\S+.*--hash=sha256:", line)] == []


def test_the_locks_satisfy_the_project() -> None:
    """A dependency that was added or raised without `make lock` is found here."""
    project = tomllib.loads(text("pyproject.toml"))
    extras = project["project"]["optional-dependencies"]
    runs = [*project["project"]["dependencies"], *extras["embedded"], *extras["demo"]]

    for path, wanted in {
        "requirements.lock": runs,
        "requirements-dev.lock": [*runs, *project["dependency-groups"]["dev"]],
    }.items():
        pinned = dict(re.findall(r"(?m)^([\w.-]+)(?:\[[\w,-]+\])?==([^\s;\\]+)", text(path)))
        for requirement in map(Requirement, wanted):
            if requirement.name != "mailquay":
                assert pinned.get(requirement.name) in requirement.specifier, f"{requirement} in {path}"
