import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { test } from 'node:test';

const ROOT = join(import.meta.dirname, '../..');

/** A house in which every import breaks one rule, or keeps all of them. */
const HOUSE: Record<string, string> = {
  'package.json': '{ "name": "house", "dependencies": { "aedes": "1", "mqtt": "1" } }',
  'src/core/nouns.ts': 'export type Noun = string;',
  'src/core/proud.ts': "import '../log/contract.ts';",
  'src/config/schema.ts':
    "import type { Noun } from '../core/nouns.ts'; export type Config = Noun;",
  'src/tenants/configured.ts':
    "import type { Config } from '../config/schema.ts'; export type C = Config;",
  'src/log/contract.ts': "import type { Noun } from '../core/nouns.ts'; export type Log = Noun;",
  'src/log/record.ts': "import type { Noun } from '../core/nouns.ts'; export type Wire = Noun;",
  'src/log/embedded/appender.ts': "import type { Log } from '../contract.ts'; export type A = Log;",
  'src/log/embedded/sibling.ts': "import '../kafka/sender.ts';",
  'src/log/kafka/sender.ts': "import '../contract.ts';",
  'src/store/contract.ts': "import type { Log } from '../log/contract.ts'; export type S = Log;",
  'src/gateway/good.ts': [
    "import type { Log } from '../log/contract.ts';",
    "import '../log/record.ts';",
    "import 'aedes';",
    "import type { Counters } from '../ops/counters.ts';",
    'export type Good = Log | Counters;',
  ].join('\n'),
  'src/gateway/type-only.ts':
    "import type { A } from '../log/embedded/appender.ts'; export type B = A;",
  'src/gateway/metrics.ts': "import '../ops/metrics.ts';",
  'src/rollup/aggregate.ts': "import '../core/nouns.ts';",
  'src/rollup/dynamic.ts': "export const gateway = await import('../gateway/good.ts');",
  'src/store/merge.ts': "export * from '../rollup/aggregate.ts';",
  'src/store/broker.ts': "import 'aedes'; import '../core/nouns.ts';",
  'src/ops/counters.ts':
    "import type { Noun } from '../core/nouns.ts'; export type Counters = Noun;",
  'src/ops/metrics.ts': "import './counters.ts'; import '../rollup/aggregate.ts';",
  'src/reports/served.ts': "import '../http/server.ts';",
  'src/http/server.ts': "import '../ops/metrics.ts'; import '../store/contract.ts';",
  'src/http/device.ts': "import 'mqtt'; import './server.ts';",
  'src/jobs/wired.ts': "import '../app.ts';",
  'src/app.ts':
    "import './gateway/good.ts'; import './log/embedded/appender.ts'; import './cli.ts';",
  'src/cli.ts': "import '../test/tools.ts';",
  'src/core/forgotten.ts': 'export const forgotten = 1;',
  'firmware-sim/main.ts': "import 'mqtt'; import '../src/core/nouns.ts';",
  'test/tools.ts': "import '../src/core/nouns.ts';",
  'src/ops/round.ts': "import './trip.ts';",
  'src/ops/trip.ts': "import './round.ts';",
};

const BROKEN = [
  'app-below-cli: src/app.ts',
  'contracts-are-types: src/store/contract.ts',
  'engines-are-strangers: src/log/embedded/sibling.ts',
  'fleet-is-foreign: firmware-sim/main.ts',
  'no-cycle: src/ops/round.ts',
  'no-orphan: src/core/forgotten.ts',
  'only-devices-use-mqtt: src/http/device.ts',
  'only-gateway-speaks-mqtt: src/store/broker.ts',
  'room-core: src/core/proud.ts',
  'room-gateway: src/gateway/metrics.ts',
  'room-gateway: src/gateway/type-only.ts',
  'room-jobs: src/jobs/wired.ts',
  'room-reports: src/reports/served.ts',
  'room-rollup: src/rollup/dynamic.ts',
  'room-store: src/store/contract.ts',
  'room-store: src/store/merge.ts',
  'room-tenants: src/tenants/configured.ts',
  'src-stands-alone: src/cli.ts',
  'wiring-is-on-top: src/jobs/wired.ts',
];

test('the rules of .dependency-cruiser.mjs see every broken arrow, and only those', (t) => {
  const house = mkdtempSync(join(tmpdir(), 'spillway-house-'));
  t.after(() => rmSync(house, { recursive: true }));
  for (const [name, content] of Object.entries(HOUSE)) {
    mkdirSync(dirname(join(house, name)), { recursive: true });
    writeFileSync(join(house, name), content);
  }
  symlinkSync(join(ROOT, 'node_modules'), join(house, 'node_modules'));
  const cruise = spawnSync(
    process.execPath,
    [
      join(ROOT, 'node_modules/dependency-cruiser/bin/dependency-cruise.mjs'),
      ...['--config', join(ROOT, '.dependency-cruiser.mjs'), '--output-type', 'json'],
      ...['src', 'firmware-sim', 'test'],
    ],
    { cwd: house, encoding: 'utf8', timeout: 30_000 },
  );
  assert.match(cruise.stdout, /^\{/, cruise.stderr);
  const { summary } = JSON.parse(cruise.stdout) as {
    summary: { violations: { rule: { name: string }; from: string }[] };
  };
  const broken = summary.violations.map(({ rule, from }) => `${rule.name}: ${from}`);
  assert.deepEqual([...new Set(broken)].sort(), BROKEN);
});
