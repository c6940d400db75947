"""What can be said of the spool: checked at the start, and never shown."""

from __future__ import annotations

import builtins
import secrets
from pathlib import Path
from typing import Any

import pytest

from worker import settings as configuration
from worker.errors import ConfigurationError, Misconfigured
from worker.quay import Quay
from worker.spool.file import FileSpool
from worker.spool.object import ObjectSpool

SECRET = secrets.token_hex(20)


def quay(folder: Path, **said: str) -> Quay:
    found = Quay(configuration.load(said, cwd=folder), "redis://127.0.0.1:1")
    found.client.close()
    return found


def test_the_spool_is_in_data_dir_unless_a_url_says_otherwise(tmp_path: Path) -> None:
    """A file URL names a folder, with any letters; no store is asked anything yet."""
    usual = quay(tmp_path, DATA_DIR="data").spool
    named = quay(tmp_path, SPOOL_URL=f"file://{tmp_path}/with%20blank").spool
    store = quay(tmp_path, SPOOL_URL="s3://bucket/prefix", SPOOL_REGION="eu-central-1").spool

    assert isinstance(usual, FileSpool)
    assert isinstance(named, FileSpool)
    assert isinstance(store, ObjectSpool)
    assert (usual.path, named.path) == (tmp_path / "data" / "spool", tmp_path / "with blank")


@pytest.mark.parametrize(
    ("said", "variable"),
    [
        ({"SPOOL_URL": f"ftp://{SECRET}/x"}, "SPOOL_URL"),
        ({"SPOOL_URL": f"s3://user:{SECRET}@bucket/x"}, "SPOOL_URL"),
        ({"SPOOL_URL": f"s3://bucket/x?key={SECRET}"}, "SPOOL_URL"),
        ({"SPOOL_URL": "s3://bucket/a/../b"}, "SPOOL_URL"),
        ({"SPOOL_URL": "file:///"}, "SPOOL_URL"),
        ({"SPOOL_URL": "spool"}, "SPOOL_URL"),
        ({"SPOOL_ENDPOINT": f"https://user:{SECRET}@host"}, "SPOOL_ENDPOINT"),
        ({"SPOOL_URL": "s3://bucket", "SPOOL_SECRET_KEY": SECRET}, "SPOOL_SECRET_KEY"),
        ({"SPOOL_URL": "s3://bucket", "SPOOL_ACCESS_KEY": "AKIDEXAMPLE"}, "SPOOL_SECRET_KEY"),
        ({"SPOOL_URL": "az://container", "SPOOL_SECRET_KEY": SECRET}, "SPOOL_SECRET_KEY"),
        ({"SPOOL_CA_FILE": "nowhere.pem"}, "SPOOL_CA_FILE"),
        ({"SPOOL_TIMEOUT": "0s"}, "SPOOL_TIMEOUT"),
    ],
)
def test_what_cannot_work_is_a_problem_of_the_configuration(
    tmp_path: Path, said: dict[str, str], variable: str
) -> None:
    """It names the variable, and never its value."""
    with pytest.raises(ConfigurationError) as caught:
        configuration.load(said, cwd=tmp_path)

    assert [problem.variable for problem in caught.value.problems] == [variable]
    assert SECRET not in str(caught.value)


def test_the_secret_key_is_never_shown(tmp_path: Path) -> None:
    """Whatever is printed of the settings, or of what was made of them."""
    (tmp_path / "key").write_text(f"{SECRET}\n")
    said = {
        "SPOOL_URL": "s3://bucket",
        "SPOOL_ACCESS_KEY": "A",
        "SPOOL_SECRET_KEY_FILE": str(tmp_path / "key"),
    }
    found = quay(tmp_path, **said)

    assert found.settings.spool_secret_key is not None
    assert found.settings.spool_secret_key.get_secret_value() == SECRET
    assert SECRET not in repr(found.settings) + repr(found.spool) + repr(vars(found.spool))


def test_a_missing_library_is_a_sentence_that_names_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The spool in a folder needs none."""
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.startswith("worker.spool.o"):
            raise ModuleNotFoundError(name="obstore")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)

    with pytest.raises(Misconfigured, match=r"mailquay\[s3\]"):
        _ = quay(tmp_path, SPOOL_URL="s3://bucket").spool
    assert quay(tmp_path).spool


def test_a_certificate_that_is_none_is_a_sentence(tmp_path: Path) -> None:
    """Before anything is asked of the store."""
    (tmp_path / "ca.pem").write_text("no certificate")
    with pytest.raises(Misconfigured, match="SPOOL_URL"):
        _ = quay(tmp_path, SPOOL_URL="s3://bucket", SPOOL_CA_FILE="ca.pem").spool
