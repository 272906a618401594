"""GitHub and GitHub Enterprise Server: signed deliveries of all their events."""

from collections.abc import Iterable
from typing import Any, ClassVar

import webhookd

# The field nearest to the moment of each event that its deliveries carry; None where they carry none.
_TIMES: dict[str | None, str] = {
    "alert.created_at": "code_scanning_alert repository_vulnerability_alert secret_scanning_alert_location",
    "alert.updated_at": "dependabot_alert",
    "build.updated_at": "page_build",
    "check_run.started_at": "check_run",
    "check_suite.updated_at": "check_suite",
    "comment.updated_at": "commit_comment discussion_comment issue_comment pull_request_review_comment",
    "deployment.updated_at": "deployment deployment_protection_rule",
    "deployment_status.updated_at": "deployment_status",
    "discussion.updated_at": "discussion",
    "effective_date": "marketplace_purchase",
    "forkee.updated_at": "fork",
    "hook.updated_at": "meta ping",
    "installation.updated_at": (
        "installation installation_repositories integration_installation integration_installation_repositories"
    ),
    "issue.updated_at": "issues",
    "key.created_at": "deploy_key",
    "merge_group.head_commit.timestamp": "merge_group",
    "milestone.updated_at": "milestone",
    "package.updated_at": "package",
    "personal_access_token_request.created_at": "personal_access_token_request",
    "project.updated_at": "project",
    "project_card.updated_at": "project_card",
    "project_column.updated_at": "project_column",
    "projects_v2.updated_at": "projects_v2",
    "projects_v2_item.updated_at": "projects_v2_item",
    "projects_v2_status_update.updated_at": "projects_v2_status_update",
    "pull_request.updated_at": "pull_request pull_request_review_thread",
    "registry_package.updated_at": "registry_package",
    "release.published_at": "release",
    # A push that deletes a branch has no commits; the time of the push itself is always there, in epoch seconds.
    "repository.pushed_at": "create delete push team_add",
    "repository.updated_at": (
        "branch_protection_configuration cache_sync content_reference custom_property_values gollum label member"
        " public repository repository_dispatch repository_import secret_scanning_alert security_and_analysis team"
        " watch workflow_dispatch"
    ),
    "repository_advisory.updated_at": "repository_advisory",
    "repository_ruleset.updated_at": "repository_ruleset",
    "review.submitted_at": "pull_request_review",
    "rule.updated_at": "branch_protection_rule",
    "security_advisory.updated_at": "security_advisory",
    "sponsorship.created_at": "sponsorship",
    "starred_at": "star",
    "sub_issue.updated_at": "sub_issues",
    "updated_at": "status",
    "workflow_job.started_at": "workflow_job",
    "workflow_run.updated_at": "deployment_review workflow_run",
    None: (
        "custom_property enterprise github_app_authorization installation_target issue_dependencies membership"
        " org_block organization user"
    ),
}
_WITH_SCHEMA = {
    *("check_run", "create", "delete", "deployment_status", "issue_comment", "issues", "ping", "pull_request"),
    *("push", "release", "workflow_run"),
}
_SAMPLES: dict[str, dict[str, Any]] = {
    "fork": {"forkee": {"full_name": "ada/engine", "updated_at": "2024-06-01T10:15:00Z"}},
    "repository_dispatch": {"action": "rebuild", "branch": "main", "client_payload": {}},
    "star": {"action": "created", "starred_at": "2024-06-01T10:15:00Z"},
    "watch": {"action": "started"},
}
_IN_ALL = {name: webhookd.load_schema("github", "issues")["examples"][0][name] for name in ("repository", "sender")}

_REDELIVER = (
    "GitHub sends nothing again by itself: Settings, Webhooks, Edit, Recent Deliveries, Redeliver, within 3 days."
)


def _event(name: str, ts_field: str | None) -> webhookd.EventType:
    if name in _WITH_SCHEMA:
        schema = webhookd.load_schema("github", name)
        return webhookd.EventType(ts_field, schema, sample=schema["examples"][0])
    return webhookd.EventType(ts_field, sample=_SAMPLES[name] | _IN_ALL if name in _SAMPLES else None)


class GitHub(webhookd.Datasource):
    """https://docs.github.com/webhooks: HMAC-SHA256 over the raw body, names in headers."""

    name = "github"
    title = "GitHub"
    signs = True
    handshakes = frozenset({"ping"})
    advice: ClassVar = {
        "signature": "At GitHub: Settings, Webhooks, Edit, Secret.",
        "content_type": "At GitHub: Settings, Webhooks, Edit, Content type: application/json.",
        "event_mismatch": "At GitHub: Settings, Webhooks, Edit, Let me select individual events.",
        **dict.fromkeys(("overloaded", "tenant_share", "unavailable", "stopping", "bug"), _REDELIVER),
    }
    events: ClassVar = {event: _event(event, path) for path, events in _TIMES.items() for event in events.split()}

    def verify_signature(self, delivery: webhookd.Delivery, secret: str) -> None:
        """Check `X-Hub-Signature-256`, lower-case hex as GitHub sends it; SHA-1 never suffices."""
        given = delivery.headers.get("x-hub-signature-256")
        if not given:
            raise webhookd.Unsigned("X-Hub-Signature-256 is missing: set the hook's secret at GitHub")
        if not webhookd.same(given, _signature(delivery.body, secret)):
            raise webhookd.Unsigned("X-Hub-Signature-256 is no signature of this body by the hook's secret")

    def sign(self, body: bytes, secret: str, now: float) -> dict[str, str]:
        """Sign as GitHub does."""
        del now
        return {"X-Hub-Signature-256": _signature(body, secret)}

    def event_type(self, delivery: webhookd.Verified) -> str | None:
        """Return `X-GitHub-Event`."""
        return delivery.headers.get("x-github-event") or None

    def delivery_id(self, delivery: webhookd.Verified) -> str | None:
        """Return `X-GitHub-Delivery`, a GUID that a redelivery keeps."""
        return delivery.headers.get("x-github-delivery") or None

    def sample_headers(self, event: str) -> dict[str, str]:
        """Name the event and a delivery."""
        return {"X-GitHub-Event": event, "X-GitHub-Delivery": "6dd7c9f0-2c1b-11ef-8c5a-0242ac120002"}


def _signature(body: bytes, secret: str) -> str:
    return f"sha256={webhookd.hmac_sha256(secret, body).hex()}"


@webhookd.hookimpl
def register_datasources() -> Iterable[webhookd.Datasource]:
    """Register GitHub."""
    return [GitHub()]
