import assert from 'node:assert/strict';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { assignCredentials, readCredentials } from '../../firmware-sim/credentials.ts';
import { readCsv } from '../../firmware-sim/csv.ts';
import { fleetSchema } from '../../firmware-sim/fleet-schema.ts';
import { loadRecordingMap } from '../../firmware-sim/recording-map.ts';
import { InputError, readYaml } from '../../firmware-sim/yaml-file.ts';
import { credentialsOf } from './test-broker.ts';

async function fileOf(t: TestContext, name: string, text: string): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'firmware-sim-'));
  t.after(() => rm(folder, { recursive: true }));
  const path = join(folder, name);
  await writeFile(path, text);
  return path;
}

/** What the reader says of a bad file, without the folder's name. */
async function faultOf(t: TestContext, text: string): Promise<string> {
  const path = await fileOf(t, 'fleet.yaml', text);
  try {
    await readYaml(path, fleetSchema);
  } catch (error) {
    assert.ok(error instanceof InputError, String(error));
    return error.message.replaceAll(path, 'fleet.yaml');
  }
  return '(no fault)';
}

const group = `groups:
  - type: thermostat
    count: 2
    period: 2s
    metrics:
      t: { kind: float, base: 20 }
`;

test('the demo fleet is right: 50 devices of three types', async () => {
  const fleet = await readYaml('config/fleet.yaml', fleetSchema);
  assert.deepEqual(
    fleet.groups.map(({ type, count, period }) => [type, count, period]),
    [
      ['thermostat', 20, 2000],
      ['power_meter', 20, 1000],
      ['weather_station', 10, 5000],
    ],
  );
  assert.deepEqual(
    fleet.groups.map(({ metrics }) => Object.keys(metrics)),
    [
      ['temperature', 'humidity', 'heating'],
      ['power', 'voltage', 'energy'],
      ['temperature', 'pressure', 'wind_speed', 'mode'],
    ],
  );
  assert.equal(fleet.tenant, 'demo');
});

test('defaults make a small file enough', async (t) => {
  const fleet = await readYaml(await fileOf(t, 'fleet.yaml', group), fleetSchema);
  const [only] = fleet.groups;
  assert.deepEqual(only?.behaviour.qos, [0, 1, 0]);
  assert.equal(only?.behaviour.buffer, 1000);
  assert.deepEqual(only?.firmware, [{ version: '1.0.0', share: 1, metrics: {} }]);
  assert.deepEqual(fleet.backoff, { base: 500, cap: 30_000, resetAfter: 10_000 });
});

const faults: [name: string, text: string, expected: RegExp][] = [
  ['no YAML', 'groups: [', /^fleet\.yaml:1:\d+: not YAML: /],
  ['nothing', '', /^fleet\.yaml: \(whole file\): .*expected object/],
  ['no groups', 'seed: 1', /^fleet\.yaml: groups: missing: expected array$/],
  [
    'a missing key',
    group.replace('    count: 2\n', ''),
    /^fleet\.yaml:2: groups\[0\]\.count: missing: expected number$/,
  ],
  [
    'a wrong kind',
    group.replace('2s', '2'),
    /^fleet\.yaml:4: groups\[0\]\.period: expected a duration such as "500ms", .*, got 2$/,
  ],
  [
    'a bad duration',
    group.replace('2s', 'soon'),
    /^fleet\.yaml:4: groups\[0\]\.period: expected a duration .*, got "soon"$/,
  ],
  [
    'a negative duration',
    group.replace('2s', '-2s'),
    /groups\[0\]\.period: expected a duration .*, got "-2s"$/,
  ],
  [
    'a misspelt key',
    group.replace('period', 'perod'),
    /fleet\.yaml:2: groups\[0\]: unknown key perod/,
  ],
  ['an unknown model', group.replace('float', 'flaot'), /groups\[0\]\.metrics\.t\.kind: /],
  [
    'a probability over 1',
    `${group}    behaviour: { duplicates: 2 }\n`,
    /^fleet\.yaml:7: groups\[0\]\.behaviour\.duplicates: .*<=1, got 2$/,
  ],
  [
    'too many exceptions',
    `${group}    exceptions: [{ count: 3, behaviour: {} }]\n`,
    /groups\[0\]\.exceptions: expected at most 2 devices .*, got 3$/,
  ],
  [
    'a counter of nothing',
    group.replace(
      '{ kind: float, base: 20 }',
      '{ kind: counter, integrates: { metric: p, scale: 1 } }',
    ),
    /groups\[0\]\.metrics\.t\.integrates\.metric: expected a float or int metric of the same device, got "p"$/,
  ],
  [
    'a gateway of any tenant',
    `${group}    gateway: { type: g, devices: 2 }\n`,
    /groups\[0\]\.tenant: expected a tenant/,
  ],
  ['an unknown profile', `rate: { profile: flood }\n${group}`, /^fleet\.yaml:1: rate\.profile: /],
  [
    'too many devices',
    group.replace('count: 2', 'count: 60000'),
    /groups\[0\]\.count: .*<=50000, got 60000$/m,
  ],
];
for (const [name, text, expected] of faults) {
  test(`fault in the fleet: ${name}`, async (t) => {
    assert.match(await faultOf(t, text), expected);
  });
}

test('a missing file is named', async () => {
  await assert.rejects(
    readYaml('no/such.yaml', fleetSchema),
    /^InputError: no\/such\.yaml: cannot be read: ENOENT/,
  );
});

test('faults in a mapping name the key', async () => {
  const time = { column: 'date', format: 'iso' as const };
  const metrics = { t: { column: 't', kind: 'float' as const } };
  await assert.rejects(
    async () => loadRecordingMap({ time: { ...time, zone: 'Mars/Base' }, metrics }),
    /map: time\.zone: expected UTC, .*, got "Mars\/Base"/,
  );
  await assert.rejects(
    async () => loadRecordingMap({ time, metrics: {} }),
    /map: metrics: expected at least one metric/,
  );
});

test('CSV: quotes, line breaks in quotes, CRLF, a BOM, blank lines, no newline at the end', async (t) => {
  const path = await fileOf(t, 'a.csv', '\uFEFFa,"b"\r\n\r\n1,"x, ""y""\nz"\n,""\n"",é');
  const records = [];
  for await (const record of readCsv(path)) records.push(record);
  assert.deepEqual(records, [
    { line: 1, fields: ['a', 'b'] },
    { line: 3, fields: ['1', 'x, "y"\nz'] },
    { line: 5, fields: ['', ''] },
    { line: 6, fields: ['', 'é'] },
  ]);
});

test('CSV: a quote that is never closed does not swallow memory', async (t) => {
  const path = await fileOf(t, 'a.csv', `a\n"${'x\n'.repeat(50_000)}`);
  const read = async () => {
    for await (const _ of readCsv(path));
  };
  await assert.rejects(read, /a\.csv:2: expected a record of at most 65536 characters/);
});

test('credentials: columns in any order; faults name line and column and no secret', async (t) => {
  const good = await fileOf(t, 'c.csv', 'secret,type,note,device,tenant\nabc,meter,,m1,demo\n');
  assert.deepEqual(await readCredentials(good), [
    { tenant: 'demo', device: 'm1', type: 'meter', secret: 'abc' },
  ]);
  const bad: [string, RegExp][] = [
    ['tenant,device,type\n', /c\.csv:1: header: .*secret is missing/],
    ['tenant,device,type,secret\ndemo,,meter,abc\n', /c\.csv:2: device: expected a value/],
    ['tenant,device,type,secret\nd,m,t,abc\nd,m,t,abd\n', /c\.csv:3: device: .*d\/m again/],
    ['', /expected a header/],
  ];
  for (const [text, expected] of bad) {
    const path = await fileOf(t, 'c.csv', text);
    await assert.rejects(readCredentials(path), (error: Error) => {
      assert.match(error.message, expected);
      assert.doesNotMatch(error.message, /abc|abd/);
      return true;
    });
  }
});

test('groups take credentials by type and tenant in the order of the file, none twice', () => {
  const one = { type: 'a', count: 2, period: '1s', metrics: { t: { kind: 'float', base: 1 } } };
  const rows = [
    ...credentialsOf('a', 3, 'other'),
    ...credentialsOf('b', 1),
    ...credentialsOf('a', 3),
  ];
  const fleet = fleetSchema.parse({ tenant: 'demo', groups: [one, { ...one, count: 1 }] });
  const names = assignCredentials(fleet, rows, 'c.csv').map(({ devices }) =>
    devices.map(({ tenant, device }) => `${tenant}/${device}`),
  );
  assert.deepEqual(names, [['demo/a-1', 'demo/a-2'], ['demo/a-3']]);
  const greedy = fleetSchema.parse({ tenant: 'demo', groups: [one, one] });
  assert.throws(
    () => assignCredentials(greedy, rows, 'c.csv'),
    /c\.csv: groups\[1\]: expected 2 credentials of type a of tenant demo, got 1 that are not taken yet/,
  );
});
