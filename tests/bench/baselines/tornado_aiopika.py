"""A webhook server as one would first write it with tornado.web and aio-pika: confirmed, persistent, nothing tuned.

PORT, AMQP_URL and HOOKS (the JSON of {token: {"apiToken", "tenantId", "datasource", "event", "tsField"}}) are variables.
"""

import asyncio
import json
import os

import aio_pika
from tornado.web import Application, HTTPError, RequestHandler


class Ingest(RequestHandler):
    def initialize(self, hooks, exchange):
        self.hooks = hooks
        self.exchange = exchange

    async def post(self, api_token, token):
        hook = self.hooks.get(token)
        if hook is None or hook["apiToken"] != api_token:
            raise HTTPError(404)
        if not self.request.headers.get("Content-Type", "").startswith("application/json"):
            raise HTTPError(415)
        try:
            json.loads(self.request.body)
        except ValueError:
            raise HTTPError(400) from None
        message = aio_pika.Message(
            self.request.body,
            content_type="application/json",
            delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
            headers={"tsField": hook["tsField"]},
        )
        await self.exchange.publish(message, f"event.{hook['tenantId']}.{hook['datasource']}.{hook['event']}")
        self.set_status(204)


async def main():
    hooks = json.loads(os.environ["HOOKS"])
    connection = await aio_pika.connect_robust(os.environ["AMQP_URL"])
    channel = await connection.channel()
    exchange = await channel.declare_exchange("events-to-enrich", aio_pika.ExchangeType.TOPIC, durable=True)
    routes = [(r"/wh/([^/]+)/([^/]+)", Ingest, {"hooks": hooks, "exchange": exchange})]
    Application(routes).listen(int(os.environ["PORT"]), "127.0.0.1")
    await asyncio.Event().wait()


asyncio.run(main())
