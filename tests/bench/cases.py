"""What is compared: loads, and the servers that carry them in turn."""

from bench.measure import Case

WEBHOOKD, SIGNED, ENFORCED = "webhookd", "webhookd, signed", "webhookd, signed, enforce"
SPOOL, UNRECORDED = "webhookd, spool:", "webhookd, no records"
TORNADO, FASTIFY, GO = "tornado.web + aio-pika", "Fastify + amqplib", "Go + amqp091-go"
BASELINES = (FASTIFY, GO, TORNADO)

CASES = (
    Case("2 KB, 256 senders, quorum queue", (WEBHOOKD, UNRECORDED, SIGNED, *BASELINES), senders=256),
    Case("2 KB, 64 senders, classic queue", (WEBHOOKD, SIGNED, *BASELINES), queue="classic"),
    Case("10 KB, 64 senders, classic queue", (WEBHOOKD, SIGNED, ENFORCED, *BASELINES), size=10240, queue="classic"),
    Case("2 KB, 64 senders, quorum queue, a new connection for each delivery", (WEBHOOKD, *BASELINES), close=True),
    Case("2 KB, 1 sender, quorum queue", (WEBHOOKD, *BASELINES), senders=1),
    Case("2 KB, 512 senders, quorum queue", (WEBHOOKD, *BASELINES), senders=512),
    Case("10 KB, 256 senders, quorum queue", (WEBHOOKD, SIGNED, ENFORCED, *BASELINES), size=10240, senders=256),
    Case("2 KB, open loop, 1,000 a second, quorum queue", (WEBHOOKD, *BASELINES), rate=1000),
    Case("2 KB, 64 senders, the spool as the broker", (SPOOL,)),
)
