"""Has records survive a restart: written every few seconds, in the background, and never in a delivery's way."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import structlog

from webhookd.adapters.records_file import RecordsFile, Rows
from webhookd.hooks import HookTable
from webhookd.record_ring import Kept
from webhookd.records import Records
from webhookd.registry import Registry
from webhookd.settings import Settings
from webhookd.statedir import StateDir

EVERY = 3.0
"""Seconds between two writings."""
MOST = 1000
"""About how many records one writing takes; what is beyond waits for the next, or is forgotten before."""
MOST_BYTES = 4 * 1024 * 1024
"""About how many bytes one writing takes; a quarter of the file where that is less."""
LAST = 5.0
"""How long, in seconds, the end waits for what is not yet on disk."""

log = structlog.get_logger(__name__)


@contextlib.asynccontextmanager
async def remembered(
    settings: Settings, statedir: StateDir, table: HookTable, registry: Registry
) -> AsyncIterator[Records]:
    """Give the records of the hooks in `table`, those of an earlier run too, and write what comes."""
    records = Records(
        table,
        registry,
        per_hook=settings.records_per_hook,
        max_bytes=settings.records_max_bytes,
        keep_accepted=settings.keep_accepted,
    )
    file = RecordsFile(statedir.records_db, per_hook=settings.records_per_hook, max_bytes=settings.records_max_disk)
    if not settings.records_per_hook:
        with contextlib.suppress(OSError):
            file.remove()
        yield records
        return
    keeper = _Keeper(records, file, min(MOST_BYTES, settings.records_max_disk // 4))
    await keeper.load()
    task = asyncio.get_running_loop().create_task(keeper.run())
    try:
        yield records
    finally:
        task.cancel()
        await asyncio.wait([task])
        await keeper.close()


class _Keeper:
    def __init__(self, records: Records, file: RecordsFile, most_bytes: int) -> None:
        self._records = records
        self._file = file
        self._most_bytes = most_bytes
        self._thread = ThreadPoolExecutor(1, "records")
        self._loop = asyncio.get_running_loop()
        self._failing = False

    async def load(self) -> None:
        """Take over what an earlier run has written, so far as it can be read."""
        try:
            hooks = await self._loop.run_in_executor(self._thread, self._file.load)
        except OSError as error:
            log.warning("the records of earlier deliveries cannot be read; new ones are kept", error=str(error))
        else:
            for tenant, token, records in hooks:
                self._records.restore(token, tenant, records)
        self._records.bodies = self._file

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            await asyncio.sleep(EVERY)
            await asyncio.shield(self._flush())  # what is under way ends, and is taken note of

    async def close(self) -> None:
        """Write all that is left, if that does not take too long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST):
                while await self._flush():
                    pass
        await self._loop.run_in_executor(self._thread, self._file.close)
        self._thread.shutdown()

    async def _flush(self) -> bool:
        """Write some of what is new; return whether there may be more that can be written."""
        records = self._records
        batch = records.unwritten(MOST, self._most_bytes)
        gone, records.gone = records.gone, set()
        if not batch and not gone:
            return False
        try:
            rows = await self._loop.run_in_executor(self._thread, self._write, gone, batch)
        except OSError as error:
            records.gone |= gone
            for _, token, kept in batch:
                records.not_written(token, kept)
            if not self._failing:
                log.warning("records of deliveries cannot be written; they stay in memory", error=str(error))
            self._failing = True
            return False
        for (_, token, entries), (*_, made) in zip(batch, rows, strict=True):
            records.written(token, zip(entries, (record for record, _ in made), strict=True))
        if self._failing:
            log.info("records of deliveries are written again")
        self._failing = False
        return True

    def _write(self, gone: set[str], batch: Sequence[tuple[str, str, Sequence[Kept]]]) -> Rows:
        make = self._records.make
        rows = [(tenant, token, [(make(kept), kept.body) for kept in entries]) for tenant, token, entries in batch]
        self._file.write(gone, rows)
        return rows
