import type { FastifyInstance } from 'fastify';
import { SpillwayError } from '../core/errors.ts';
import { formatLetterId } from '../ops/letters/letter.ts';
import { purgeLetters } from '../ops/letters/purge.ts';
import { type ReplayStatus, Replays } from '../ops/letters/replay.ts';
import { findLetter } from '../ops/letters/select.ts';
import { tryLetters } from '../ops/letters/trial.ts';
import { invalid } from '../reports/parameters.ts';
import type { StoredDeadLetter } from '../store/contract.ts';
import { type Rights, tenantOf } from './access.ts';
import { type DataContext, type FastifyRequest, parametersOf } from './context.ts';
import { only, type Parameters } from './data-parameters.ts';
import { HttpError } from './errors.ts';
import {
  FILTERS,
  groupedBy,
  letterFilter,
  letterId,
  letterPage,
  letterSelection,
  wholeNumber,
} from './letter-parameters.ts';
import { groupsOf, letterJson, replayJson } from './letters-json.ts';

/** Dead letters: list, group, show, try, replay, purge. */

const TRIED_MAX = 1_000;
const DETAILS_MAX = 100;

type LetterRequest = FastifyRequest & { params: { letter: string } };

export function deadLetterRoutes(app: FastifyInstance, context: DataContext): void {
  readRoutes(app, context);
  tryRoute(app, context);
  replayRoutes(app, context);
  purgeRoute(app, context);
}

function readRoutes(app: FastifyInstance, context: DataContext): void {
  const { store, clock } = context;

  app.get('/api/v1/dead-letters', async (request) => {
    const rights = await context.rights(request, 'data');
    const parameters = parametersOf(request);
    const query = letterPage(parameters, tenantOf(rights, parameters.tenant), clock.now());
    const letters = await context.queries.run(() => store.deadLetters(query));
    const last = letters.length === query.limit ? letters.at(-1) : undefined;
    return {
      tenant: query.tenant,
      from: new Date(query.from).toISOString(),
      to: new Date(query.to).toISOString(),
      deadLetters: letters.map(letterJson),
      next: last === undefined ? null : formatLetterId(last),
    };
  });

  app.get('/api/v1/dead-letters/groups', async (request) => {
    const rights = await context.rights(request, 'data');
    const parameters = only(parametersOf(request), [...FILTERS, 'by']);
    const query = letterFilter(parameters, tenantOf(rights, parameters.tenant), clock.now());
    const by = groupedBy(parameters);
    const groups = await context.queries.run(() => store.groupDeadLetters(query));
    return {
      tenant: query.tenant,
      from: new Date(query.from).toISOString(),
      to: new Date(query.to).toISOString(),
      groups: groupsOf(groups, by),
    };
  });

  app.get('/api/v1/dead-letters/:letter', async (request) => {
    const letter = await letterOf(context, request as LetterRequest);
    return letterJson(letter);
  });

  app.get('/api/v1/dead-letters/:letter/payload', async (request, reply) => {
    const letter = await letterOf(context, request as LetterRequest);
    const name = `dead-letter-${formatLetterId(letter)}.bin`;
    return reply
      .type('application/octet-stream')
      .header('content-disposition', `attachment; filename="${name}"`)
      .send(Buffer.from(letter.payload, 'base64'));
  });
}

async function letterOf(context: DataContext, request: LetterRequest): Promise<StoredDeadLetter> {
  const rights = await context.rights(request, 'data');
  const parameters = only(parametersOf(request), ['tenant']);
  const { tenant } = letterFilter({}, tenantOf(rights, parameters.tenant), 0);
  const id = letterId('the path', request.params.letter);
  const letter = await context.queries.run(() => findLetter(context.store, tenant, id));
  if (letter === undefined) {
    throw new SpillwayError('NOT_FOUND', 'There is no such letter, or it was purged.', {
      next: 'See the ids in the list of dead letters.',
    });
  }
  return letter;
}

function tryRoute(app: FastifyInstance, context: DataContext): void {
  const { store, clock, config } = context;

  app.post('/api/v1/dead-letters/try', async (request) => {
    const rights = await context.rights(request, 'data');
    const { parameters, tenant } = order(rights, request, ['limit', 'types']);
    if (context.examine === undefined) throw notOffered('Trying');
    const selection = letterSelection(parameters, tenant, clock.now());
    const examine = await context.examine(parameters.types);
    return context.queries.run(() =>
      tryLetters({
        ...{ store, examine, attemptsMax: config.deadLetters.attemptsMax },
        selection: {
          state: 'open',
          ...selection,
          limit: wholeNumber(parameters, 'limit', TRIED_MAX) ?? TRIED_MAX,
        },
        detailsMax: DETAILS_MAX,
        signal: AbortSignal.timeout(config.http.requestTimeout),
      }),
    );
  });
}

function replayRoutes(app: FastifyInstance, context: DataContext): void {
  const { store, clock, config, append } = context;
  const { attemptsMax, replaysPerSecondMax } = config.deadLetters;
  const replays = new Replays();
  app.addHook('onClose', () => replays.close());

  app.post('/api/v1/dead-letters/replays', async (request, reply) => {
    const rights = await context.rights(request, 'token');
    const { parameters, tenant } = order(rights, request, ['limit', 'rate']);
    if (context.examine === undefined || append === undefined) throw notOffered('Replaying');
    const limit = wholeNumber(parameters, 'limit', Number.MAX_SAFE_INTEGER);
    const status = replays.start({
      ...{ store, clock, append, attemptsMax, examine: await context.examine() },
      selection: {
        ...letterSelection(parameters, tenant, clock.now()),
        ...(limit !== undefined && { limit }),
      },
      rate: wholeNumber(parameters, 'rate', replaysPerSecondMax) ?? replaysPerSecondMax,
    });
    return reply.code(202).send(replayJson(status));
  });

  app.get('/api/v1/dead-letters/replays', async (request) => {
    const rights = await context.rights(request, 'data');
    const parameters = only(parametersOf(request), ['tenant']);
    const tenant = tenantOf(rights, parameters.tenant);
    return { replays: replays.list(tenant).map(replayJson) };
  });

  const replayOf = (rights: Rights, id: string): ReplayStatus => {
    const status = replays.get(id);
    // Of another tenant's nobody learns that it is there.
    if (status === undefined || (rights.role === 'tenant' && rights.tenant !== status.tenant)) {
      throw new SpillwayError('NOT_FOUND', 'This process knows no such replay.', {
        next: 'See the ids in the list of replays; it ends with its process.',
      });
    }
    return status;
  };

  app.get<{ Params: { id: string } }>('/api/v1/dead-letters/replays/:id', async (request) => {
    const rights = await context.rights(request, 'data');
    return replayJson(replayOf(rights, request.params.id));
  });

  app.delete<{ Params: { id: string } }>('/api/v1/dead-letters/replays/:id', async (request) => {
    const rights = await context.rights(request, 'token');
    const status = replayOf(rights, request.params.id);
    replays.stop(status.id);
    return replayJson(status);
  });
}

function purgeRoute(app: FastifyInstance, context: DataContext): void {
  const { store, clock, append } = context;

  app.post('/api/v1/dead-letters/purge', async (request, reply) => {
    const rights = await context.rights(request, 'token');
    const { parameters, tenant } = order(rights, request, []);
    if (append === undefined) throw notOffered('Purging');
    if (Object.keys(parameters).every((name) => name === 'tenant')) {
      throw invalid('the body', 'letters, or at least one filter', 'neither');
    }
    const selection = letterSelection(parameters, tenant, clock.now());
    const purged = await context.queries.run(() =>
      purgeLetters({ store, clock, append, selection }),
    );
    return reply.code(202).send({ tenant: selection.tenant, ...purged });
  });
}

/** The body of a request that does something, and the tenant that it is for. */
function order(
  rights: Rights,
  request: FastifyRequest,
  more: readonly string[],
): { parameters: Parameters; tenant: string | undefined } {
  const { body } = request;
  if (typeof body !== 'object' || body === null || Array.isArray(body)) {
    throw new HttpError('REQUEST_INVALID', 'The body is not a JSON object.');
  }
  const parameters = only(body as Parameters, [...FILTERS, 'letters', ...more]);
  const inUrl = only(parametersOf(request), ['tenant']).tenant;
  return { parameters, tenant: tenantOf(rights, parameters.tenant ?? inUrl) };
}

function notOffered(what: string): HttpError {
  return new HttpError('NOT_OFFERED', `${what} dead letters is not offered here.`);
}
