"""The Celery application: `celery -A worker.app worker -Q pull`, `celery -A worker.app beat`.

The broker is a doorbell (promise P4): tasks carry names, never mail, so each setting here tunes how soon a lost bell is
rung again, not whether mail is lost. The environment is read when Celery first asks for its configuration, not at
import.
"""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import Any

from celery import Celery, signals
from celery.exceptions import CPendingDeprecationWarning
from celery.loaders.app import AppLoader
from kombu.entity import Queue

from worker import log, settings, state
from worker.errors import Misconfigured


class Loader(AppLoader):  # type: ignore[misc]  # celery has no types
    """Hands Celery its configuration when it first asks."""

    def read_configuration(self, fail_silently: bool = True) -> dict[str, Any]:  # noqa: ARG002
        """The whole configuration of Celery, each setting with its reason.

        Raises:
            SystemExit: something is wrong with ours. A role ends with the sentences that say what, not with a traceback.
        """
        try:
            return configuration(settings.load(os.environ, cwd=Path.cwd()))
        except Misconfigured as error:
            sys.exit(str(error))


def configuration(said: settings.Settings) -> dict[str, Any]:
    """Celery's settings from ours.

    Raises:
        Misconfigured: no broker is named.
    """
    broker = said.broker_url or said.redis_url
    if broker is None:
        raise Misconfigured("REDIS_URL is not set: start the workers with `mailquay up`, or set it")
    pull_limit = said.pull_limit.total_seconds()
    return {
        "broker_url": state.celery_url(broker),
        # A task is taken from Redis before it is acknowledged; a killed worker's tasks come back after this long. It
        # has to be longer than the longest task, else a running one would be started twice.
        "broker_transport_options": {
            "visibility_timeout": int(pull_limit) + 300,
            "unacked_restore_interval": 5,
            "unacked_restore_throttle": 1,
            # Without these a publish would hang for ever on a connection that died silently.
            "socket_timeout": 30,
            "socket_connect_timeout": 5,
            "socket_keepalive": True,
            "global_keyprefix": "mailquay:celery:",
        },
        "broker_connection_retry_on_startup": True,
        # The default gives up after a hundred tries.
        "broker_connection_max_retries": None,
        # Nobody waits for a result.
        "result_backend": None,
        "task_ignore_result": True,
        "task_acks_late": True,
        # A task that kills its process would come back in a hot loop; the batch counts its attempts instead.
        "task_reject_on_worker_lost": False,
        # A task whose acknowledgement was lost goes on; a second one for the same mailbox or batch finds the lease held.
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "worker_prefetch_multiplier": 1,
        "worker_max_tasks_per_child": 500,
        "worker_max_memory_per_child": 400_000,
        # TERM gives running tasks so long to end, then hands them back. Celery sleeps the whole time when any task
        # runs, and none needs more: a pull and a delivery may be ended at any instruction.
        "worker_soft_shutdown_timeout": 5,
        "worker_hijack_root_logger": False,
        "worker_send_task_events": False,
        "task_serializer": "json",
        "accept_content": ["json"],
        # A typo in a route fails at once.
        "task_create_missing_queues": False,
        "task_queues": [Queue(name) for name in ("pull", "deliver", "maintenance")],  # type: ignore[no-untyped-call]
        "task_default_queue": "maintenance",
        "task_routes": {"mailquay.pull": "pull", "mailquay.deliver": "deliver"},
        "task_annotations": {
            "mailquay.pull": {"soft_time_limit": pull_limit, "time_limit": pull_limit + 60},
            "mailquay.deliver": {"soft_time_limit": 270, "time_limit": 300},
            # A webhook that answers by the drop must not keep its deliverer.
            "mailquay.alert": {"soft_time_limit": 60, "time_limit": 90},
        },
        "imports": ["worker.tasks"],
        "beat_scheduler": "worker.schedule:MailboxScheduler",
        "beat_max_loop_interval": 1,
    }


app = Celery("mailquay", loader=Loader, set_as_current=True)


@signals.setup_logging.connect  # type: ignore[untyped-decorator]  # celery has no types
def _set_up_logging(**_: object) -> None:
    """Keep Celery's hands off the root logger: ours is structlog's."""
    said = settings.load(os.environ, cwd=Path.cwd())
    log.configure(level=said.log_level, form=said.log_format)
    # Celery warns at every lost connection of a default that may change; ours is chosen above.
    warnings.filterwarnings("ignore", category=CPendingDeprecationWarning)
