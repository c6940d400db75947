"""What is written about the configuration is what the models say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from worker.reference import COMMAND, EXAMPLES, SECTIONS, configuration, documents, env_example
from worker.settings import MAILBOX_FIELDS, General, load

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("path", documents())
def test_a_generated_document_is_what_the_models_say(path: str) -> None:
    """Whoever changes a setting runs one command."""
    assert (ROOT / path).read_text(encoding="utf-8") == documents()[path], f"run: {COMMAND}"


def test_the_example_copied_to_env_configures_no_mailbox_and_is_valid(tmp_path: Path) -> None:
    """A new user copies it before he has read it."""
    (tmp_path / ".env").write_text(env_example(), encoding="utf-8")

    settings = load({}, cwd=tmp_path)

    assert settings == load({}, cwd=tmp_path / "elsewhere").model_copy(update={"data_dir": tmp_path / "data"})
    assert settings.mailboxes == {}


def test_the_worked_examples_are_valid_together(tmp_path: Path) -> None:
    """Uncommented as they stand in `.env.example`, with their secrets in place."""
    for example in EXAMPLES.values():
        for key, value in example.items():
            assert f"#{key}={value}\n" in env_example()
            if key.endswith("_FILE"):
                (tmp_path / value).parent.mkdir(exist_ok=True)
                (tmp_path / value).write_text("whsec_c2VjcmV0IHNlY3JldCBzZWNyZXQgc2VjcmV0IQ==")
    text = "".join(f"{key}={value}\n" for example in EXAMPLES.values() for key, value in example.items())
    (tmp_path / ".env").write_text(text, encoding="utf-8")

    settings = load({}, cwd=tmp_path)

    assert set(settings.mailboxes) == {"support", "orders", "shop", "office"}
    assert set(settings.outputs) == {"archive", "crm"}


def test_every_line_of_the_example_is_a_comment_or_a_setting_taken_away() -> None:
    """Nothing in it takes effect before a person takes the # away."""
    lines = [line for line in env_example().splitlines() if line]

    assert [line for line in lines if not re.fullmatch(r"# .*|#[A-Z0-9_]+=.*", line)] == []


def test_every_variable_is_documented() -> None:
    """In the reference page each with its row, and all but ENV_FILE in the example."""
    general = {name.upper() for name in General.model_fields}
    sections = {f"{prefix}{name.upper()}" for prefix, _, _, model in SECTIONS for name in model.model_fields}
    fields = {name.upper() for name in MAILBOX_FIELDS}
    page, example = configuration(), env_example()

    for variable in general | sections | {f"MAILBOX__NAME__{name}" for name in fields}:
        assert f"| `{variable}` |" in page
    for variable in (general - {"ENV_FILE"}) | sections | {f"MAILBOX__SUPPORT__{name}" for name in fields}:
        assert f"\n#{variable}=" in example
