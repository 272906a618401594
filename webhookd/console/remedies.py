"""What to do about each fault of the daemon, in a sentence, and about each kind of refusal."""

from __future__ import annotations

from collections.abc import Iterable

from webhookd.http_admin import Readiness
from webhookd.remedies import REMEDIES, general

FAULTS = {
    "stopping": "The daemon is going down; what is in work is answered first.",
    "hooks never loaded": "The store has not answered since the start, and no snapshot was there. Look at the store.",
    "spool failing": "The disk refuses writes. Look at the disk of state_dir; nothing is lost that was answered 204.",
    "spool full": "Have the broker back, free the disk, or raise spool_max_bytes. Senders get 503 meanwhile.",
    "broker down": "Start RabbitMQ, or right its address, user or network. Deliveries go to the spool meanwhile.",
    "broker blocked": "RabbitMQ has a memory or disk alarm: rabbitmq-diagnostics alarms. The spool takes over.",
    "store down": "Deliveries go on; hooks cannot be changed. Look at the store: disk, permissions, etcd.",
    "set aside": "webhookd spool list, or the log, says which and why.",
    "jwks": "No key was ever had from jwks_url: look at that address. Such tokens get 503.",
    "spool filling": "The broker does not take as much as comes: look at it, or raise spool_max_bytes.",
    "spool damaged": "What could be read was taken over; the damaged file is kept beside it.",
    "unroutable": "No queue takes these messages: bind one to the exchange. They wait in the spool.",
}
"""The words that a fault begins with, and what to do."""


CAUSES = {
    "Connection refused": "RabbitMQ does not run there, or listens elsewhere: start it (systemctl status"
    " rabbitmq-server), or right the setting broker.",
    "the broker closed the connection: 320": "RabbitMQ was stopped just now: start it again.",
    "it does not answer": "The connection is open, and nothing comes back: look at RabbitMQ's load and disk, and at the"
    " firewall; restart it.",
    "the broker reads nothing: low on memory": "RabbitMQ has raised its memory alarm (rabbitmq-diagnostics alarms):"
    " drain its queues, or give it more memory.",
    "the broker reads nothing: low on disk": "RabbitMQ has raised its disk alarm (rabbitmq-diagnostics alarms): free"
    " its disk.",
    "is refused (compare its name and password)": "Compare broker_password_file, or the password in broker, with the"
    " user's: rabbitmqctl authenticate_user.",
    "the vhost is not there, or user": "Make the vhost of broker, or let the user in: rabbitmqctl list_vhosts,"
    " rabbitmqctl list_permissions.",
    "is missing, and user": "Make the exchange, since the user may not: a topic, durable, without arguments.",
    "Name or service not known": "The host of broker has no address: right it, or see to the name server.",
    "SSL: WRONG_VERSION_NUMBER": "No TLS is spoken at that port: amqp:// in broker, or RabbitMQ's TLS port (5671).",
}
"""What stands behind `broker down` and `broker blocked`, and what to do about that very cause."""
MEANWHILE = "Deliveries go to the spool meanwhile."


def of_faults(readiness: Readiness) -> list[tuple[str, str]]:
    """Return each fault in /readyz' words, with its remedy."""
    return [(fault, _first(fault)) for fault in (*readiness.unready, *readiness.degraded)]


def of_refusals(counts: Iterable[tuple[str, int]]) -> list[tuple[str, int, str]]:
    """Return reasons of refused deliveries and their counts, each with its remedy."""
    return [
        (reason, count, general(REMEDIES[reason].remedy).replace("`", "") if reason in REMEDIES else "")
        for reason, count in counts
    ]


def _first(fault: str) -> str:
    if fault.startswith("broker"):
        known = [f"{remedy} {MEANWHILE}" for cause, remedy in CAUSES.items() if cause in fault]
        if known:
            return known[0]
    return next((remedy for words, remedy in FAULTS.items() if fault.startswith(words)), "")
