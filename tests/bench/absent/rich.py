"""Not to be found by a daemon that is measured: users do not have it."""

raise ImportError("rich comes with what tests the API, and not with webhookd")
