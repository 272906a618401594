// A webhook server in Fastify and amqplib: confirmed, persistent, and with Nagle's algorithm off, without which each
// confirm waits for a delayed acknowledgement. PORT, AMQP_URL and HOOKS are variables, as in tornado_aiopika.py.
import amqplib from 'amqplib';
import fastify from 'fastify';

const EXCHANGE = 'events-to-enrich';
const hooks = new Map(Object.entries(JSON.parse(process.env.HOOKS)));

const connection = await amqplib.connect(process.env.AMQP_URL, { noDelay: true });
const channel = await connection.createConfirmChannel();
await channel.assertExchange(EXCHANGE, 'topic', { durable: true });

const server = fastify();
server.removeAllContentTypeParsers();
server.addContentTypeParser('application/json', { parseAs: 'buffer' }, (request, body, done) => {
  try {
    JSON.parse(body);
  } catch (error) {
    error.statusCode = 400;
    return done(error);
  }
  return done(null, body);
});

server.post('/wh/:apiToken/:token', (request, reply) => {
  const hook = hooks.get(request.params.token);
  if (hook === undefined || hook.apiToken !== request.params.apiToken) {
    reply.code(404).send();
    return;
  }
  const key = `event.${hook.tenantId}.${hook.datasource}.${hook.event}`;
  const properties = {
    persistent: true,
    mandatory: true,
    contentType: 'application/json',
    headers: { tsField: hook.tsField },
  };
  channel.publish(EXCHANGE, key, request.body, properties, (error) => reply.code(error ? 503 : 204).send());
});

await server.listen({ host: '127.0.0.1', port: Number(process.env.PORT) });
