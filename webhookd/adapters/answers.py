"""What a future came to, told to somebody else."""

from __future__ import annotations

from asyncio import Future

from webhookd.errors import OutcomeUnknown
from webhookd.ports import Answer, Durable


def pass_on(told: Future[Durable], answer: Answer) -> None:
    """Tell `answer` what `told`, which is done, came to: `OutcomeUnknown` where it was cancelled."""
    if answer.done():
        return
    if told.cancelled():
        answer.set_exception(OutcomeUnknown("it was given up"))
    elif (error := told.exception()) is not None:
        answer.set_exception(error)
    else:
        answer.set_result(told.result())
