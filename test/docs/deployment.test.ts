import assert from 'node:assert/strict';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { parse } from 'yaml';
import { z } from 'zod';
import { loadConfig } from '../../src/config/load.ts';

const ROOT = join(import.meta.dirname, '../..');
const read = (path: string): string => readFileSync(join(ROOT, path), 'utf8');

const environment = z.record(z.string(), z.union([z.string(), z.number()]));
const service = z.object({
  image: z.string(),
  build: z.string().optional(),
  environment: environment.default({}),
  volumes: z.array(z.string()).default([]),
  ports: z.array(z.string()).default([]),
  secrets: z.array(z.string()).default([]),
  depends_on: z.array(z.string()).default([]),
});
const compose = z
  .object({
    services: z.record(z.string(), service),
    secrets: z.record(z.string(), z.object({ file: z.string() })),
    volumes: z.record(z.string(), z.unknown()),
  })
  .parse(parse(read('docker-compose.yml'), { merge: true }));

const services = Object.entries(compose.services);
const named = (name: string) => compose.services[name] ?? assert.fail(`no service ${name}`);
const ROLES = ['gateway', 'rollup', 'http'] as const;

/** `ENV` of the Dockerfile, as the container sees it. */
function imageEnvironment(): Record<string, string> {
  const text = read('Dockerfile').replaceAll('\\\n', ' ');
  const line = /^ENV (.*)$/m.exec(text)?.[1] ?? '';
  return Object.fromEntries(line.split(/\s+/).map((pair) => pair.split('=') as [string, string]));
}

function containerConfig(role: (typeof ROLES)[number]) {
  const own = Object.entries(named(role).environment).map(([key, value]) => [key, String(value)]);
  const env = { ...imageEnvironment(), ...Object.fromEntries(own) };
  return loadConfig({ file: join(ROOT, 'config/spillway.yaml'), env }).config;
}

test('the variables of image and compose file are keys of the configuration, and the roles are apart', () => {
  for (const role of ROLES) {
    const config = containerConfig(role);
    assert.deepEqual(config.roles, [role]);
    assert.equal(config.data.dir, '/data');
    assert.equal(config.gateway.mqtt.host, '0.0.0.0');
    assert.equal(config.http.host, '0.0.0.0');
    assert.equal(config.log.engine, 'kafka');
    assert.equal(config.store.engine, 'influxdb');
    assert.ok(named(role).volumes.includes(`${role}:/data`), 'a spool of its own');
  }
});

test('brokers and database are where the compose file has them', () => {
  const { log, store } = containerConfig('gateway');
  const listeners = String(named('kafka').environment.KAFKA_ADVERTISED_LISTENERS).split(',');
  const inside = listeners.find((one) => one.startsWith('INSIDE://'))?.slice('INSIDE://'.length);
  assert.deepEqual(log.kafka.brokers, [inside]);
  assert.ok(new URL(store.influxdb.url).hostname in compose.services);
  const { environment } = named('influxdb');
  assert.equal(store.influxdb.org, environment.DOCKER_INFLUXDB_INIT_ORG);
  assert.equal(
    named('gateway').environment.SPILLWAY_STORE_INFLUXDB_TOKEN,
    environment.DOCKER_INFLUXDB_INIT_ADMIN_TOKEN,
  );
});

test('the published ports are those that Spillway listens on', () => {
  const { gateway, http } = containerConfig('gateway');
  const inside = (role: string) => named(role).ports.map((port) => Number(port.split(':').at(-1)));
  assert.deepEqual(inside('gateway'), [gateway.mqtt.port]);
  assert.deepEqual(inside('http'), [http.port]);
  assert.match(read('Dockerfile'), new RegExp(`^EXPOSE ${gateway.mqtt.port} ${http.port}$`, 'm'));
});

test('every port is published on loopback only, and once', () => {
  const ports = services.flatMap(([, { ports }]) => ports);
  for (const port of ports) assert.match(port, /^127\.0\.0\.1:\d+:\d+$/);
  assert.equal(new Set(ports.map((port) => port.split(':')[1])).size, ports.length);
});

test('no secret is written down, and every variable has its line in .env.example', () => {
  for (const [name, { environment }] of services) {
    for (const [key, value] of Object.entries(environment)) {
      if (/PASSWORD|TOKEN|SECRET/.test(key) && !key.endsWith('_FILE'))
        assert.match(String(value), /^\$\{\w+:\?/, `${name} ${key}`);
    }
  }
  const wanted = [...read('docker-compose.yml').matchAll(/\$\{(\w+)/g)].map((match) => match[1]);
  const lines = read('.env.example')
    .split('\n')
    .filter((line) => /^\w/.test(line));
  assert.deepEqual([...new Set(wanted)].sort(), lines.map((line) => line.replace(/=$/, '')).sort());
});

test('what the compose file refers to is there', () => {
  for (const [name, { volumes, secrets, depends_on }] of services) {
    for (const volume of volumes) {
      const [from = ''] = volume.split(':');
      const known = from.startsWith('./') ? existsSync(join(ROOT, from)) : from in compose.volumes;
      assert.ok(known, `${name}: ${volume}`);
    }
    for (const secret of secrets) assert.ok(secret in compose.secrets, secret);
    for (const other of depends_on) assert.ok(other in compose.services, other);
  }
});

test('what the Dockerfile copies is there and not ignored', () => {
  const ignored = read('.dockerignore').split('\n');
  const copies = [...read('Dockerfile').matchAll(/^COPY (?!--)(.+) \S+$/gm)];
  const sources = copies.flatMap((match) => match[1]?.split(' ') ?? []);
  assert.ok(sources.includes('src') && sources.includes('package-lock.json'));
  for (const source of sources) {
    assert.ok(existsSync(join(ROOT, source)), source);
    assert.ok(ignored.includes(`!${source}`), `.dockerignore hides ${source}`);
  }
});

test('Prometheus scrapes Spillway with the token that the compose file mounts', () => {
  const prometheus = z
    .object({
      rule_files: z.array(z.string()),
      scrape_configs: z.tuple([
        z.object({
          job_name: z.literal('spillway'),
          authorization: z.object({ type: z.literal('Bearer'), credentials_file: z.string() }),
          static_configs: z.tuple([z.object({ targets: z.array(z.string()) })]),
        }),
      ]),
    })
    .parse(parse(read('config/prometheus/prometheus.yml')));
  const [scrape] = prometheus.scrape_configs;
  const { port, metricsTokenFile } = containerConfig('http').http;
  assert.deepEqual(
    scrape.static_configs[0].targets,
    ROLES.map((role) => `${role}:${port}`),
  );
  const secrets = named('prometheus').secrets.map((secret) => `/run/secrets/${secret}`);
  assert.ok(secrets.includes(scrape.authorization.credentials_file));
  assert.equal(scrape.authorization.credentials_file, metricsTokenFile);
  for (const file of prometheus.rule_files)
    assert.ok(existsSync(join(ROOT, 'config/prometheus', file)));
});

const dashboardNames = readdirSync(join(ROOT, 'config/grafana/dashboards'));
const dashboard = z.object({
  uid: z.string(),
  title: z.string(),
  panels: z.array(
    z.object({
      id: z.int(),
      title: z.string(),
      datasource: z.object({ uid: z.string() }),
      gridPos: z.object({ x: z.int(), y: z.int(), w: z.int(), h: z.int() }),
      // PromQL or Flux; test/services/influxdb-dashboards.test.ts runs the latter.
      targets: z.array(
        z.union([
          z.object({ datasource: z.object({ uid: z.literal('prometheus') }), expr: z.string() }),
          z.object({ datasource: z.object({ uid: z.literal('influxdb') }), query: z.string() }),
        ]),
      ),
    }),
  ),
});

test('the dashboards are where Grafana looks, and use data sources that exist', () => {
  const mounts = named('grafana').volumes.map((volume) => volume.split(':'));
  const provider = z
    .object({ providers: z.array(z.object({ options: z.object({ path: z.string() }) })) })
    .parse(parse(read('config/grafana/provisioning/dashboards/dashboards.yaml')));
  const path = provider.providers[0]?.options.path;
  assert.ok(mounts.some(([from, to]) => from === './config/grafana/dashboards' && to === path));
  const { datasources } = z
    .object({ datasources: z.array(z.object({ uid: z.string(), url: z.url() })) })
    .parse(parse(read('config/grafana/provisioning/datasources/datasources.yaml')));
  for (const { url } of datasources) assert.ok(new URL(url).hostname in compose.services, url);
  const uids = new Set(datasources.map(({ uid }) => uid));
  assert.ok(dashboardNames.length > 0);
  const dashboardUids = new Set<string>();
  for (const name of dashboardNames) {
    const { uid, panels } = dashboard.parse(JSON.parse(read(`config/grafana/dashboards/${name}`)));
    assert.equal(new Set(panels.map(({ id }) => id)).size, panels.length, 'panel ids are unique');
    assert.ok(!dashboardUids.has(uid), uid);
    dashboardUids.add(uid);
    for (const { datasource, targets, gridPos } of panels) {
      assert.ok(gridPos.x + gridPos.w <= 24);
      for (const uid of [datasource.uid, ...targets.map((target) => target.datasource.uid)]) {
        assert.ok(uids.has(uid), uid);
      }
    }
  }
});

test('Grafana asks InfluxDB for the buckets that the configuration makes', () => {
  const { influxdb } = loadConfig({ file: join(ROOT, 'config/spillway.yaml'), env: {} }).config
    .store;
  const known = ['raw', 'rollup-1m', 'rollup-1h', 'rollup-1d', 'dead-letters', 'ledger'].map(
    (name) => `${influxdb.bucketPrefix}-${name}`,
  );
  const files = ['dashboards/devices.json', 'provisioning/datasources/datasources.yaml'];
  for (const file of files) {
    const text = read(`config/grafana/${file}`);
    const asked = [...text.matchAll(/(?:bucket: \\"|defaultBucket: )([^"\\\n]+)/g)].map(
      ([, bucket]) => bucket ?? '',
    );
    assert.ok(asked.length > 0, file);
    assert.deepEqual(
      asked.filter((bucket) => !known.includes(bucket)),
      [],
      file,
    );
  }
});

test('GitHub runs what .ci/run runs, with pinned actions and no right to write', () => {
  const text = read('.github/workflows/ci.yml');
  const workflow = z
    .object({
      permissions: z.record(z.string(), z.string()),
      jobs: z.record(z.string(), z.unknown()),
    })
    .parse(parse(text));
  assert.deepEqual(workflow.permissions, { contents: 'read' });
  const uses = [...text.matchAll(/uses: (\S+)(.*)/g)];
  assert.ok(uses.length > 0);
  for (const [, action = '', comment = ''] of uses) {
    assert.match(action, /@[0-9a-f]{40}$/);
    assert.match(comment, /# v\d/);
  }
  for (const command of ['npm ci', 'npm run check', 'npm test', 'npm run test:services']) {
    assert.ok(text.includes(command), `workflow: ${command}`);
    assert.ok(read('.ci/run').includes(command), `.ci/run: ${command}`);
  }
});

test('the scripts that the checks call are in package.json', () => {
  const { scripts } = z
    .object({ scripts: z.record(z.string(), z.string()) })
    .parse(JSON.parse(read('package.json')));
  for (const name of ['check', 'test', 'test:services']) assert.ok(scripts[name], name);
});
