"""Docker Hub: its one event, which is neither signed nor named."""

from collections.abc import Iterable
from typing import ClassVar

import webhookd

_PUSH = webhookd.load_schema("dockerhub", "push")


class DockerHub(webhookd.Datasource):
    """https://docs.docker.com/docker-hub/repos/manage/webhooks/: a push, protected by the hook's URL alone."""

    name = "dockerhub"
    title = "Docker Hub"
    events: ClassVar = {"push": webhookd.EventType("push_data.pushed_at", _PUSH, sample=_PUSH["examples"][0])}


@webhookd.hookimpl
def register_datasources() -> Iterable[webhookd.Datasource]:
    """Register Docker Hub."""
    return [DockerHub()]
