"""Gitea and Forgejo: https://docs.gitea.com/usage/webhooks."""

import webhookd

PUSH = {
    "type": "object",
    "required": ["ref", "after", "repository"],
    "properties": {
        "ref": {"type": "string"},
        "after": {"type": "string"},
        "repository": {"type": "object", "required": ["full_name"], "properties": {"full_name": {"type": "string"}}},
    },
}
PUSHED = {
    "ref": "refs/heads/main",
    "after": "c0ffee00d15ea5e0c0ffee00d15ea5e0c0ffee00",
    "repository": {"full_name": "analytical/engine", "updated_at": "2024-06-01T10:15:00Z"},
}
EVENTS = {
    "push": webhookd.EventType("repository.updated_at", schema=PUSH, sample=PUSHED),
    "release": webhookd.EventType("release.published_at"),
}


class Gitea(webhookd.Datasource):
    name = "gitea"
    title = "Gitea"
    signs = True
    events = EVENTS

    def verify_signature(self, delivery, secret):
        expected = webhookd.hmac_sha256(secret, delivery.body).hex()
        if not webhookd.same(delivery.headers.get("x-gitea-signature", ""), expected):
            raise webhookd.Unsigned("X-Gitea-Signature is missing, or no signature of this body by the hook's secret")

    def sign(self, body, secret, now):
        return {"X-Gitea-Signature": webhookd.hmac_sha256(secret, body).hex()}

    def event_type(self, delivery):
        return delivery.headers.get("x-gitea-event")

    def delivery_id(self, delivery):
        return delivery.headers.get("x-gitea-delivery")

    def sample_headers(self, event):
        return {"X-Gitea-Event": event, "X-Gitea-Delivery": "f6266f16-1bf3-46a5-9ea4-602e06ead473"}


@webhookd.hookimpl
def register_datasources():
    return [Gitea()]
