"""A role that cannot start says why in words."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.bed.installation import Installation


@pytest.mark.parametrize("role", [("beat",), ("worker", "-Q", "pull")], ids=["beat", "worker"])
def test_a_role_with_a_wrong_setting_ends_with_the_problems_and_no_traceback(
    installation: Installation, role: tuple[str, ...]
) -> None:
    """All that a person sees of a container that restarts again and again is its log."""
    installation.mailbox("office", address="office@example.com", password="hush", outputs="lines")

    ended = subprocess.run(
        [sys.executable, "-m", "celery", "--quiet", "--app", "worker.app", *role],
        cwd=installation.folder,
        env=installation.full_environ(PULL_LIMIT="soon"),
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )

    assert ended.returncode != 0
    assert [line.partition(":")[0] for line in ended.stderr.splitlines()] == [
        "PULL_LIMIT",
        "MAILBOX__OFFICE__HOST",
    ]
    assert "hush" not in ended.stdout + ended.stderr
