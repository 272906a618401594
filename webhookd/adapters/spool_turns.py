"""Shares the pages that one transaction may write: who got none last time comes first, so that nobody starves."""

from __future__ import annotations

from collections.abc import Callable

Claim = Callable[[int], int | None]
"""pages left -> pages taken at most, None where there was work, but not enough pages for it."""


class Turns:
    """Who takes pages, in whose turn."""

    def __init__(self, *claims: Claim) -> None:
        self._claims = list(claims)

    def share(self, pages: int) -> None:
        """Let everybody take."""
        starved = []
        for claim in self._claims:
            taken = claim(pages)
            if taken is None:
                starved.append(claim)
            else:
                pages -= taken
        self._claims = starved + [claim for claim in self._claims if claim not in starved]
