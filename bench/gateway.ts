/** The gateway and its log alone, as a process of its own, for `bench/`: prints its port, ends on SIGTERM. */
import { deviceTypes } from '../src/config/device-types.ts';
import { configSchema } from '../src/config/schema.ts';
import { systemClock } from '../src/core/clock.ts';
import { openGateway } from '../src/gateway/open.ts';
import { EmbeddedAppender } from '../src/log/embedded/appender.ts';
import { gatewayCounters } from '../src/ops/counters.ts';
import { PasswordVerifier } from '../src/tenants/passwords.ts';
import { Registry } from '../src/tenants/registry.ts';
import { BENCH_TYPES } from './types.ts';

const { dir, fastPath, count } = JSON.parse(process.argv[2] ?? '{}') as {
  dir: string;
  fastPath: boolean;
  count: number;
};
const config = configSchema.parse({
  data: { dir },
  gateway: { mqtt: { port: 0 }, fastPath },
  types: BENCH_TYPES,
});
const { embedded } = config.log;
const appender = await EmbeddedAppender.open({
  ...embedded,
  dir: `${dir}/log`,
  retainForMs: embedded.retainFor,
  commitIntervalMs: embedded.commitInterval,
});
const registry = new Registry({
  dir,
  types: new Set(deviceTypes(config).keys()),
  clock: systemClock,
});
const clients = registry.addDevices({ tenant: 'bench', type: 'bench', count });
const counters = gatewayCounters();
const verifier = new PasswordVerifier(registry);
const logger = {
  info() {},
  warn: (fields: object, message: string) => console.error(message, fields),
};
const gateway = await openGateway({
  config,
  appender,
  directory: registry,
  verifier,
  counters,
  clock: systemClock,
  logger,
});
console.log(
  JSON.stringify({
    port: gateway.port,
    clients: clients.map(({ tenant, device, secret }) => ({
      username: `${tenant}/${device}`,
      password: secret,
      topic: `t/${tenant}/d/${device}/telemetry`,
    })),
  }),
);
process.on('SIGTERM', () => {
  void (async () => {
    await gateway.stopReading();
    await appender.flush();
    await gateway.close();
    await appender.close();
    registry.close();
    console.log(
      JSON.stringify({ messages: counters.messages, deadLetters: [...counters.deadLetters] }),
    );
    process.exit(0);
  })();
});
