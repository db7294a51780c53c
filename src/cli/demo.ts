import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { startSpillway } from '../app.ts';
import type { Config } from '../config/schema.ts';
import { openRegistry } from '../engines.ts';
import { createLogger } from '../logging.ts';
import { VERSION } from '../version.ts';
import { reportError } from './context.ts';
import { untilSignal } from './run.ts';

const TENANT = 'demo';
const FLEET: Record<string, number> = { thermostat: 20, power_meter: 20, weather_station: 10 };
const ROOT = fileURLToPath(new URL('../../', import.meta.url));
/** The fleet flushes its buffers first, so that everything it measured is acknowledged. */
const FLEET_DRAIN_MS = 10_000;

/** Runs everything on loopback with a simulated fleet, until Ctrl-C. */
export async function demo(config: Config): Promise<void> {
  const logger = createLogger({ ...config.logging, level: 'warn' });
  const told = untilSignal();
  const { credentialsFile, token } = provision(config);
  const quiet = { ...config, logging: { ...config.logging, level: 'warn' as const } };
  const spillway = await startSpillway(quiet, logger, VERSION);
  const url = `mqtt://${config.gateway.mqtt.host}:${spillway.mqttPort}`;
  const http = `http://${config.http.host}:${spillway.httpPort}`;
  const fleet = startFleet(credentialsFile, url);
  process.stdout.write(welcome(url, http, token));
  const reason = await Promise.race([
    told,
    spillway.failed.catch(reportError),
    new Promise<string>((resolve) => fleet.once('exit', () => resolve('the fleet ended'))),
  ]);
  process.stdout.write(
    `\nStopping (${reason}): the fleet sends what it has measured, then everything drains.\n`,
  );
  await stopFleet(fleet);
  await spillway.stop();
  process.stdout.write(
    'Stopped; nothing acknowledged was lost. `npm run -s spillway -- audit --config config/demo.yaml` shows the account.\n',
  );
  process.exit(0);
}

/** Makes the devices and a token at the first start and keeps their secrets beside the data, for the owner alone. */
function provision(config: Config): { credentialsFile: string; token: string } {
  const registry = openRegistry(config);
  const credentialsFile = join(config.data.dir, 'demo-credentials.csv');
  const tokenFile = join(config.data.dir, 'demo-token');
  if (!existsSync(credentialsFile)) {
    for (const { tenant, device } of registry.devices(TENANT))
      registry.removeDevice(tenant, device);
    const rows = Object.entries(FLEET).flatMap(([type, count]) =>
      registry.addDevices({ tenant: TENANT, type, count }),
    );
    const lines = rows.map(({ tenant, device, type, secret }) =>
      [tenant, device, type, secret].join(','),
    );
    writeFileSync(credentialsFile, `tenant,device,type,secret\n${lines.join('\n')}\n`, {
      mode: 0o600,
    });
  }
  let token = existsSync(tokenFile) ? readFileSync(tokenFile, 'utf8').trim() : '';
  if (registry.verifyToken(token) === undefined) {
    token = registry.addToken({ role: 'tenant', tenant: TENANT }).token;
    writeFileSync(tokenFile, `${token}\n`, { mode: 0o600 });
  }
  registry.close();
  return { credentialsFile, token };
}

function startFleet(credentials: string, url: string): ChildProcess {
  const fleet = join(ROOT, 'config/fleet.yaml');
  const main = join(ROOT, 'firmware-sim/main.ts');
  // A group of its own: a terminal's Ctrl-C reaches it through us, once, and in the right order.
  const child = spawn(
    process.execPath,
    [main, 'run', '--fleet', fleet, '--credentials', credentials, '--url', url],
    {
      stdio: ['ignore', 'inherit', 'inherit'],
      detached: true,
    },
  );
  process.once('exit', () => child.kill('SIGKILL'));
  return child;
}

async function stopFleet(fleet: ChildProcess): Promise<void> {
  if (fleet.exitCode !== null) return;
  const ended = new Promise((resolve) => fleet.once('exit', resolve));
  fleet.kill('SIGTERM');
  const late = new AbortController();
  await Promise.race([
    ended,
    sleep(FLEET_DRAIN_MS, undefined, { signal: late.signal }).catch(() => {}),
  ]);
  late.abort();
}

function welcome(mqtt: string, http: string, token: string): string {
  return `Spillway runs with 50 simulated devices.

  MQTT      ${mqtt}
  Console   ${http}/
  API       curl -H "Authorization: Bearer ${token}" \\
              "${http}/api/v1/query?tenant=demo&device=thermostat-01&metric=temperature&from=-5m&step=10s&format=csv"
  Report    npm run -s spillway -- report --config config/demo.yaml --tenant demo \\
              --device thermostat-01 --metric temperature --from -5m --step 10s
  Account   npm run -s spillway -- audit --config config/demo.yaml

First rollups appear within seconds. Ctrl-C drains and ends.

`;
}
