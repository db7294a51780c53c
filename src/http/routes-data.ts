import { Readable } from 'node:stream';
import type { FastifyInstance } from 'fastify';
import { deviceTypes } from '../config/device-types.ts';
import { ledgerFrom, retentionOf } from '../config/windows.ts';
import { SpillwayError } from '../core/errors.ts';
import { isName } from '../core/names.ts';
import { auditJson } from '../ops/audit-format.ts';
import type { PresenceStatus } from '../ops/deadman.ts';
import { audit } from '../ops/ledger.ts';
import { CONTENT_TYPES, completenessLine, formatReport } from '../reports/format.ts';
import { FORMATS, type Format, invalid, type Query } from '../reports/parameters.ts';
import { runQuery } from '../reports/query.ts';
import { requireOperator, tenantOf } from './access.ts';
import { type DataContext, parametersOf } from './context.ts';
import { flag, only, timeRange } from './data-parameters.ts';
import { listDevices, TenantList } from './device-list.ts';
import { HttpError } from './errors.ts';
import { explainDevice } from './explain.ts';

/** The data of tenants: query, devices, audit, commands. */

export function dataRoutes(app: FastifyInstance, context: DataContext): void {
  const { config, store, consumer, clock } = context;
  const types = context.types ?? deviceTypes(config);
  const retention = retentionOf(config);
  const tenants = new TenantList(context);

  app.get('/api/v1/query', async (request, reply) => {
    const rights = await context.rights(request, 'data');
    const parameters = parametersOf(request);
    const tenant = tenantOf(rights, parameters.tenant);
    const query = { ...parameters, tenant } as Query;
    const report = await context.queries.run(() =>
      runQuery(store, query, {
        ...{ types, clock, retention, deviceType: typeFinder(context) },
        ...{ baseWindowMs: config.rollup.baseWindow, rowsMax: config.http.queryRowsMax },
      }),
    );
    const format: Format = FORMATS.find((one) => one === parameters.format) ?? 'json';
    if (format === 'csv') {
      reply.header('spillway-completeness', completenessLine(report, { bounded: true }));
    }
    reply.type(CONTENT_TYPES[format]);
    return reply.send(Readable.from(formatReport(report, format)));
  });

  app.get('/api/v1/devices', async (request) => {
    const rights = await context.rights(request, 'data');
    const parameters = only(parametersOf(request), ['tenant', 'status']);
    const tenant = tenantOf(rights, parameters.tenant);
    const status = statusOf(parameters.status);
    return context.queries.run(async () => {
      const names = tenant === undefined ? await tenants.get() : [tenant];
      return listDevices(context, types, names, status);
    });
  });

  app.get('/api/v1/audit', async (request) => {
    const rights = await context.rights(request, 'data');
    const parameters = only(parametersOf(request), ['tenant', 'from', 'to', 'devices', 'hours']);
    const tenant = tenantOf(rights, parameters.tenant);
    const keptFrom = ledgerFrom(config, clock.now());
    const result = await context.queries.run(() =>
      audit({
        ...{ store, consumer, group: 'rollup' },
        ...(tenant !== undefined && { tenant }),
        ...timeRange(parameters, clock.now()),
        by: flag(parameters, 'hours') ? 'hour' : flag(parameters, 'devices') ? 'device' : 'tenant',
        ...(keptFrom !== undefined && { keptFrom }),
        signal: AbortSignal.timeout(config.http.requestTimeout),
      }),
    );
    return auditJson(result);
  });

  app.get<{ Params: { device: string } }>('/api/v1/devices/:device/explain', async (request) => {
    const rights = await context.rights(request, 'data');
    const parameters = only(parametersOf(request), ['tenant']);
    const tenant = tenantOf(rights, parameters.tenant);
    const { device } = request.params;
    if (tenant === undefined) requireTenant();
    if (!isName(device)) {
      throw new SpillwayError('NAME_INVALID', 'The device in the path is not a name.');
    }
    const isOperator = rights.role === 'operator';
    const explanation = await context.queries.run(() =>
      explainDevice(context, types, { tenant, device }, isOperator),
    );
    if (explanation !== undefined) return explanation;
    throw new SpillwayError('DEVICE_UNKNOWN', `Nothing is known of a device ${device}.`);
  });

  app.post<{ Params: { device: string } }>(
    '/api/v1/devices/:device/commands',
    async (request, reply) => {
      const rights = await context.rights(request, 'token');
      const parameters = only(parametersOf(request), ['tenant']);
      const tenant = tenantOf(rights, parameters.tenant);
      if (tenant === undefined) requireTenant();
      const { device } = request.params;
      if (!isName(device)) {
        throw new SpillwayError('NAME_INVALID', 'The device in the path is not a name.');
      }
      if (context.sendCommand === undefined) {
        throw new HttpError('NOT_OFFERED', 'Commands are not offered here.');
      }
      if (request.body === undefined) {
        throw new HttpError('REQUEST_INVALID', 'The command has no body; send one JSON value.');
      }
      const sent = await context.sendCommand(tenant, device, JSON.stringify(request.body));
      if (!sent) {
        throw new HttpError('DEVICE_OFFLINE', `Device ${device} of ${tenant} is not connected.`);
      }
      return reply.code(202).send({ accepted: true, tenant, device });
    },
  );

  app.get('/api/v1/status', async (request) => {
    requireOperator(await context.rights(request, 'view'));
    return (context.wholeStatus ?? context.status)();
  });
}

/** Types from the directory, read when the first is asked for; a device that is not there is undefined. */
function typeFinder(context: DataContext) {
  let known: Map<string, string> | undefined;
  return (tenant: string, device: string): string | undefined => {
    known ??= new Map(context.devices?.(tenant).map((entry) => [entry.device, entry.type]));
    return known.get(device);
  };
}

function statusOf(value: unknown): PresenceStatus | undefined {
  if (value === undefined || value === 'online' || value === 'offline') return value;
  throw invalid('status', 'online or offline', value);
}

function requireTenant(): never {
  throw new SpillwayError('QUERY_INVALID', 'tenant: expected one name of a tenant; got nothing.');
}
