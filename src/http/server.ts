import type { Socket } from 'node:net';
import { type FastifyInstance, type FastifyReply, fastify } from 'fastify';
import { SpillwayError } from '../core/errors.ts';
import { isLoopback, isMetricsToken, requireOperator, rightsOf } from './access.ts';
import { loadAssets } from './assets.ts';
import type { HttpContext, HttpOptions } from './context.ts';
import { errorAnswer, HTTP_ERRORS, HttpError } from './errors.ts';
import { dataRoutes } from './routes-data.ts';
import { deadLetterRoutes } from './routes-dead-letters.ts';
import { Turnstile } from './turnstile.ts';

export type { Rights, TokenVerifier } from './access.ts';
export type { HttpOptions } from './context.ts';

const HEADER_BYTES_MAX = 16_384;
const URL_CHARS_MAX = 8_192;
/** Queries at a time; the store reads in this thread, so more would only take turns. */
const QUERIES = { insideMax: 4, waitingMax: 64 };

const SECURITY_HEADERS = {
  'content-security-policy': [
    "default-src 'none'",
    "script-src 'self'",
    "style-src 'self'",
    "img-src 'self'",
    "connect-src 'self'",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
  ].join('; '),
  'x-content-type-options': 'nosniff',
  'x-frame-options': 'DENY',
  'referrer-policy': 'no-referrer',
  'cross-origin-resource-policy': 'same-origin',
  'cross-origin-opener-policy': 'same-origin',
};

export interface HttpServer {
  /** For tests: `inject` answers without a socket. */
  app: FastifyInstance;
  /** Binds to `http.host` and `http.port`. Throws LISTEN_FAILED. */
  listen(): Promise<{ host: string; port: number }>;
  /** Answers what was asked and closes. */
  close(): Promise<void>;
}

/** The HTTP API, the console, health and metrics. `docs/api.md` documents them. */
export async function createHttpServer(options: HttpOptions): Promise<HttpServer> {
  const { data, ...shared } = options;
  const { config, tokens } = shared;
  const app = fastify({
    logger: false,
    bodyLimit: config.http.bodyBytesMax,
    requestTimeout: config.http.requestTimeout,
    handlerTimeout: config.http.requestTimeout,
    forceCloseConnections: 'idle',
    http: { maxHeaderSize: HEADER_BYTES_MAX },
    routerOptions: { maxParamLength: 64 },
    clientErrorHandler: answerBroken,
    frameworkErrors: (error, request, reply) => {
      const { status, body } = errorAnswer(error, request.id);
      (reply as FastifyReply).code(status).headers(SECURITY_HEADERS).send(body);
    },
  });
  const boundToLoopback = isLoopback(config.http.host);
  const context: HttpContext = {
    ...shared,
    queries: new Turnstile(QUERIES),
    rights: (request, need) =>
      rightsOf({ headers: request.headers, peer: request.socket.remoteAddress ?? '' }, need, {
        ...{ tokens, boundToLoopback },
      }),
  };
  guards(app, context);
  healthRoutes(app, context);
  if (data !== undefined) {
    dataRoutes(app, { ...context, ...data });
    deadLetterRoutes(app, { ...context, ...data });
    await consoleRoutes(app);
  }
  return {
    app,
    async listen() {
      const { host, port } = config.http;
      try {
        await app.listen({ host, port });
      } catch (cause) {
        const reason = (cause as NodeJS.ErrnoException).code ?? String(cause);
        throw new SpillwayError(
          'LISTEN_FAILED',
          `HTTP can't listen on ${host}:${port}: ${reason}.`,
          { cause },
        );
      }
      const address = app.server.address();
      return { host, port: typeof address === 'object' && address !== null ? address.port : port };
    },
    close: () => app.close(),
  };
}

function guards(app: FastifyInstance, { observe, logger }: HttpContext): void {
  // A text/plain body is one that another site can post without asking.
  app.removeContentTypeParser('text/plain');
  app.addHook('onRequest', async (request, reply) => {
    reply.headers(SECURITY_HEADERS);
    if (request.url.length > URL_CHARS_MAX) {
      throw new HttpError('URL_TOO_LONG', `The URL is longer than ${URL_CHARS_MAX} characters.`);
    }
  });
  app.addHook('onSend', async (_request, reply, payload) => {
    if (!reply.hasHeader('cache-control')) reply.header('cache-control', 'no-store');
    return payload;
  });
  if (observe !== undefined) {
    app.addHook('onResponse', async (request, reply) => {
      observe(request.routeOptions.url ?? 'none', reply.statusCode);
    });
  }
  app.setErrorHandler((error, request, reply) => {
    const { status, body } = errorAnswer(error, request.id);
    if (status >= 500 && body.error.code === 'INTERNAL') {
      logger.error({ err: error, request: request.id, route: request.routeOptions.url }, 'http');
    }
    if (status === 401) reply.header('www-authenticate', 'Bearer realm="spillway"');
    if (status === 503) reply.header('retry-after', '2');
    return reply.code(status).type('application/json; charset=utf-8').send(body);
  });
  app.setNotFoundHandler(() => {
    throw new SpillwayError('NOT_FOUND', 'There is nothing at this path.');
  });
}

/** What is so broken that it never becomes a request. */
function answerBroken(error: NodeJS.ErrnoException, socket: Socket): void {
  if (error.code === 'ECONNRESET' || socket.destroyed || !socket.writable) {
    socket.destroy();
    return;
  }
  const code = error.code === 'HPE_HEADER_OVERFLOW' ? 'HEADERS_TOO_LARGE' : 'REQUEST_INVALID';
  const { status, next } = HTTP_ERRORS[code];
  const body = JSON.stringify({
    error: { code, message: 'The request is not HTTP as it should be.', next },
  });
  const head = [
    `HTTP/1.1 ${status} ${status === 431 ? 'Request Header Fields Too Large' : 'Bad Request'}`,
    'Content-Type: application/json; charset=utf-8',
    `Content-Length: ${body.length}`,
    'Connection: close',
  ];
  socket.end(`${head.join('\r\n')}\r\n\r\n${body}`);
}

function healthRoutes(app: FastifyInstance, context: HttpContext): void {
  app.get('/healthz', async () => ({ ok: true }));
  app.get('/readyz', async (_request, reply) => {
    const { ready, readyReason } = context.status();
    if (ready) return { ready: true };
    return reply.code(503).header('retry-after', '2').send({ ready: false, reason: readyReason });
  });
  app.get('/metrics', async (request, reply) => {
    if (!isMetricsToken(request.headers.authorization, context.metricsToken)) {
      requireOperator(await context.rights(request, 'view'));
    }
    const text = await context.metrics();
    return reply.type('text/plain; version=0.0.4; charset=utf-8').send(text);
  });
}

async function consoleRoutes(app: FastifyInstance): Promise<void> {
  for (const [path, { type, body, etag }] of await loadAssets()) {
    // The page holds nothing: what it shows, it asks for with the token that somebody gives it.
    app.get(path, async (request, reply) => {
      reply.headers({ 'cache-control': 'no-cache', etag });
      if (request.headers['if-none-match'] === etag) return reply.code(304).send();
      return reply.type(type).send(body);
    });
  }
}
