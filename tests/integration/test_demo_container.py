"""The demo of the compose file keeps away from real mailboxes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.bed.installation import Installation


def test_the_demo_does_not_start_beside_real_mailboxes(tmp_path: Path) -> None:
    """Both would be told by one environment: a real mailbox would sign in at the demo's provider and be pulled whole."""
    installation = Installation(tmp_path, redis_url="redis://127.0.0.1:1/0")
    installation.mailbox(
        "office", address="office@example.com", host="127.0.0.1", password="x", outputs="lines"
    )

    demo = subprocess.run(
        [sys.executable, "-m", "worker.demo.container", "--dir", str(tmp_path / "demo"), "--free-ports"],
        cwd=tmp_path,
        env=installation.full_environ(),
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )

    assert demo.returncode == 1
    assert "does not run beside real mailboxes (office)" in demo.stderr
    assert not (tmp_path / "demo").exists()
