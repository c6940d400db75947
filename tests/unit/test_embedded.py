"""The embedded Valkey: one for all verbs on a machine, started by the first and stopped by the last."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import cast

import pytest

from tests.bed.processes import wait_until
from worker import state
from worker.embedded import embedded
from worker.errors import Misconfigured

USER = (
    "import sys\nfrom pathlib import Path\nfrom worker.embedded import embedded\n"
    "with embedded(Path(sys.argv[1])) as url:\n    print(url, flush=True)\n    sys.stdin.readline()\n"
)


class User:
    """Another process that uses the server until it is told to stop."""

    def __init__(self, data_dir: Path) -> None:
        root = str(Path(__file__).parents[2])
        self.process = subprocess.Popen(
            [sys.executable, "-c", USER, str(data_dir)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": root},
        )
        assert self.process.stdout
        self.url = self.process.stdout.readline().strip()

    def leave(self) -> None:
        self.process.communicate("\n", timeout=20)

    def die(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate(timeout=20)


def server(url: str) -> int:
    """The pid of whoever answers."""
    client = state.connect(url)
    info = cast("dict[str, int]", client.info("server"))
    client.close()
    return info["process_id"]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_users_share_one_server_and_the_last_one_stops_it(tmp_path: Path) -> None:
    """Whoever started it may leave first; the data are there for the next user."""
    first = User(tmp_path)
    second = User(tmp_path)
    pid = server(second.url)
    assert (first.url, server(first.url)) == (second.url, pid)
    first.leave()
    assert server(second.url) == pid

    client = state.connect(second.url)
    client.set("kept", "yes")
    client.close()
    second.leave()
    assert not alive(pid)

    with embedded(tmp_path) as url:
        client = state.connect(url)
        assert client.get("kept") == "yes"
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        client.close()


def test_a_user_that_was_killed_neither_stops_the_server_nor_keeps_it_for_ever(tmp_path: Path) -> None:
    """By -9, while others work: they go on; and when it was alone, the next user finds its server and stops it."""
    killed = User(tmp_path)
    with embedded(tmp_path) as url:
        pid = server(url)
        killed.die()
        assert server(url) == pid
    assert not alive(pid)

    alone = User(tmp_path)
    orphan = server(alone.url)
    alone.die()
    assert alive(orphan)
    with embedded(tmp_path) as url:
        assert server(url) == orphan
    wait_until(lambda: not alive(orphan), timeout=5, what="the end of the orphan")


def test_a_server_that_was_killed_is_started_again_with_its_data(tmp_path: Path) -> None:
    """Its socket is left behind and answers nobody; that is no server."""
    user = User(tmp_path)
    client = state.connect(user.url)
    client.set("kept", "yes")
    client.close()
    os.kill(server(user.url), signal.SIGKILL)
    user.die()

    with embedded(tmp_path) as url:
        client = state.connect(url)
        assert client.get("kept") == "yes"
        client.close()


def test_only_this_user_can_open_it_and_nobody_from_the_network(tmp_path: Path) -> None:
    """A socket in a private folder, and no port; also where the folder's path is too long for a socket."""
    for data_dir in (tmp_path, tmp_path / ("long" * 30)):
        with embedded(data_dir) as url:
            client = state.connect(url)
            assert client.config_get("port") == {"port": "0"}
            socket = Path(client.config_get("unixsocket")["unixsocket"])  # type: ignore[index]
            client.close()
            assert len(str(socket)) <= 103
            assert stat.S_IMODE(socket.stat().st_mode) == 0o700
            assert stat.S_IMODE(socket.parent.stat().st_mode) == 0o700


def test_a_server_that_does_not_start_is_named_with_its_log(tmp_path: Path) -> None:
    """For example because its file is damaged: the log says where."""
    folder = tmp_path / "valkey" / "appendonlydir"
    folder.mkdir(parents=True)
    (folder / "appendonly.aof.manifest").write_text("no manifest\n")

    with pytest.raises(Misconfigured, match=r"see .*valkey\.log"), embedded(tmp_path):
        pytest.fail("it started")
