// TypeScript 7 has no JavaScript API, so swc parses. Without it dependency-cruiser would skip every
// .ts file and find nothing to complain about: importing it here makes its absence an error.
import { parseSync } from '@swc/core';

parseSync('export type Probe = 1;', { syntax: 'typescript' });

/**
 * The arrows of the house (docs/ARCHITECTURE.md):
 *
 *   core ← config, tenants ← gateway, log, rollup, store ← reports, ops ← jobs ← http ← app ← cli
 *
 * Type imports count like any other: a room that knows another's types knows that room.
 */

/** What a room on the path may see of another: types without an implementation, and the wire form. */
const LOG_DOOR = '^src/log/(contract|record)[.]ts$';
const GATEWAY_DOOR = '^src/gateway/contract[.]ts$';
const STORE_DOOR = '^src/store/contract[.]ts$';
const ROLLUP_DOOR = '^src/rollup/aggregate[.]ts$';
const COUNTERS = '^src/ops/counters[.]ts$';
const BASE = '^src/(core|config|tenants)/';

/** `room` may import of `src` only itself, the rooms below the path, and `doors`. */
const room = (name, doors, comment) => ({
  name: `room-${name}`,
  comment,
  severity: 'error',
  from: { path: `^src/${name}/` },
  to: { path: '^src/', pathNot: [`^src/${name}/`, BASE, ...doors] },
});

/** `packages` (a pattern) may be imported from `places` only. */
const only = (name, packages, places, comment) => ({
  name: `only-${name}`,
  comment,
  severity: 'error',
  from: { pathNot: places },
  to: { path: [`^(${packages})(/|$)`, `(^|/)node_modules/(${packages})/`] },
});

export default {
  forbidden: [
    {
      name: 'room-core',
      comment: 'The nouns import nothing of ours.',
      severity: 'error',
      from: { path: '^src/core/' },
      to: { path: '^src/', pathNot: '^src/core/' },
    },
    {
      name: 'room-config',
      comment: 'The configuration knows the nouns only.',
      severity: 'error',
      from: { path: '^src/config/' },
      to: { path: '^src/', pathNot: '^src/(core|config)/' },
    },
    {
      name: 'room-tenants',
      comment: 'Identity knows the nouns only.',
      severity: 'error',
      from: { path: '^src/tenants/' },
      to: { path: '^src/', pathNot: '^src/(core|tenants)/' },
    },
    room('gateway', [LOG_DOOR, COUNTERS], 'The gateway meets the log through its contract.'),
    room('log', [], 'The log knows nobody on the path.'),
    room('rollup', [LOG_DOOR, STORE_DOOR], 'Rollups meet log and store through their contracts.'),
    room('store', [], 'The store knows nobody on the path.'),
    room(
      'reports',
      [STORE_DOOR, LOG_DOOR, ROLLUP_DOOR],
      'Reports read through the store contract.',
    ),
    room(
      'ops',
      [GATEWAY_DOOR, STORE_DOOR, LOG_DOOR, ROLLUP_DOOR],
      'Metrics, health and the ledger read through contracts.',
    ),
    room(
      'jobs',
      [STORE_DOOR, LOG_DOOR, ROLLUP_DOOR, '^src/(reports|ops)/'],
      'Jobs run reports; the API is above them.',
    ),
    room(
      'http',
      [GATEWAY_DOOR, STORE_DOOR, LOG_DOOR, ROLLUP_DOOR, '^src/(reports|ops|jobs)/'],
      'The API serves reports, jobs and operations.',
    ),
    {
      name: 'counters-are-plain',
      comment:
        'The gateway imports ops/counters.ts: it stays types and plain objects, so that the hot path pulls in nothing else.',
      severity: 'error',
      from: { path: COUNTERS },
      to: { pathNot: ['^src/core/', '^src/[^/]+/contract[.]ts$'] },
    },
    {
      name: 'contracts-are-types',
      comment: 'A contract names no implementation, not even for a type.',
      severity: 'error',
      from: { path: '^src/[^/]+/contract[.]ts$' },
      to: { pathNot: '^src/core/' },
    },
    {
      name: 'engines-are-strangers',
      comment: 'Engines behind one contract never import each other; app.ts stacks them.',
      severity: 'error',
      from: { path: '^src/(log|store)/(embedded|kafka|influxdb)/' },
      to: {
        path: '^src/(log|store)/(embedded|kafka|influxdb)/',
        pathNot: '^src/$1/$2/',
      },
    },
    {
      name: 'wiring-is-on-top',
      comment: 'Nobody in a room imports app or cli.',
      severity: 'error',
      from: { path: '^src/[^/]+/', pathNot: '^src/(app|cli)/' },
      to: { path: '^src/(app|cli)([.]ts$|/)' },
    },
    {
      name: 'app-below-cli',
      comment: 'The wiring does not know the command line.',
      severity: 'error',
      from: { path: '^src/app([.]ts$|/)' },
      to: { path: '^src/cli([.]ts$|/)' },
    },
    {
      name: 'src-stands-alone',
      comment: 'The product imports nothing of its tests, benchmarks and simulators.',
      severity: 'error',
      from: { path: '^src/' },
      to: { path: '^(test|bench|firmware-sim)/' },
    },
    {
      name: 'fleet-is-foreign',
      comment: 'The simulated fleet knows Spillway by MQTT alone, as a real one does.',
      severity: 'error',
      from: { path: '^firmware-sim/' },
      to: { path: '^(src|test|bench)/' },
    },
    only(
      'gateway-speaks-mqtt',
      'aedes|aedes-[^/]+|mqtt-packet',
      ['^src/gateway/', '^test/', '^bench/'],
      'The broker and its packets have one room, so that they can be replaced.',
    ),
    only(
      'devices-use-mqtt',
      'mqtt',
      ['^firmware-sim/', '^test/', '^bench/'],
      'The client is for those who play a device.',
    ),
    only(
      'kafka-in-one-room',
      'kafkajs',
      ['^src/log/kafka/', '^test/', '^bench/'],
      'The Kafka client has one room.',
    ),
    only(
      'influxdb-in-one-room',
      '@influxdata/[^/]+',
      ['^src/store/influxdb/', '^test/', '^bench/'],
      'The InfluxDB client has one room.',
    ),
    {
      name: 'no-cycle',
      comment: 'Two files that need each other are one file, or hide a third.',
      severity: 'error',
      from: { path: '^(src|firmware-sim|test|bench)/' },
      to: { circular: true },
    },
    {
      name: 'no-orphan',
      comment: 'A file that nobody imports and that imports nobody is forgotten.',
      severity: 'error',
      from: {
        orphan: true,
        path: '^(src|firmware-sim)/',
        pathNot: ['[.]d[.]ts$', '-thread[.]ts$', '^src/cli[.]ts$', '^src/http/console/'],
      },
      to: {},
    },
    {
      name: 'unresolvable',
      comment: 'The import leads nowhere.',
      severity: 'error',
      from: { path: '^(src|firmware-sim|test|bench)/' },
      // The console's chart is served from its package.
      to: { couldNotResolve: true, pathNot: ['^node:', '^[.]/uplot[.]js$'] },
    },
    {
      name: 'dev-dependency-in-product',
      comment: 'What ships needs what is installed with --omit=dev.',
      severity: 'error',
      from: { path: '^(src|firmware-sim)/' },
      to: { dependencyTypes: ['npm-dev'] },
    },
    {
      name: 'undeclared-dependency',
      comment: 'The package is not in package.json; it is there by chance.',
      severity: 'error',
      from: { path: '^(src|firmware-sim|test|bench)/' },
      to: { dependencyTypes: ['npm-no-pkg', 'npm-unknown'] },
    },
  ],
  options: {
    parser: 'swc',
    doNotFollow: { path: '(^|/)node_modules/' },
    exclude: { path: '^(dist|data|coverage)/' },
    moduleSystems: ['es6', 'cjs'],
    enhancedResolveOptions: {
      extensions: ['.ts', '.js', '.mjs', '.cjs', '.json'],
      exportsFields: ['exports'],
      conditionNames: ['import', 'node', 'default', 'types'],
      mainFields: ['module', 'main', 'types'],
    },
  },
};
