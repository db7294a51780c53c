import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { createTestBroker, credentialsOf } from './test-broker.ts';

const FLEET = `connectOver: 0s
groups:
  - type: meter
    count: 3
    period: 20ms
    metrics: { t: { kind: float, base: 20 } }
`;

async function folderOf(t: TestContext): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'firmware-sim-'));
  t.after(() => rm(folder, { recursive: true }));
  const rows = credentialsOf('meter', 3).map((row) => Object.values(row).join(','));
  await writeFile(join(folder, 'creds.csv'), ['tenant,device,type,secret', ...rows, ''].join('\n'));
  await writeFile(join(folder, 'fleet.yaml'), FLEET);
  return folder;
}

function start(t: TestContext, args: string[]): ChildProcess {
  const child = spawn(process.execPath, ['firmware-sim/main.ts', ...args]);
  t.after(() => child.kill('SIGKILL'));
  return child;
}

async function endOf(child: ChildProcess): Promise<{ code: number; out: string; err: string }> {
  let out = '';
  let err = '';
  child.stdout?.on('data', (chunk) => {
    out += chunk;
  });
  child.stderr?.on('data', (chunk) => {
    err += chunk;
  });
  const [code] = await once(child, 'close');
  return { code, out, err };
}

test('run: ends after its duration with a table, a JSON file and 0', async (t) => {
  const broker = await createTestBroker(t);
  const folder = await folderOf(t);
  const files = ['--fleet', join(folder, 'fleet.yaml'), '--credentials', join(folder, 'creds.csv')];
  const json = join(folder, 'summary.json');
  const { code, out } = await endOf(
    start(t, ['run', ...files, '--url', broker.url, '--duration', '400ms', '--summary-json', json]),
  );
  assert.equal(code, 0);
  const summary = JSON.parse(await readFile(json, 'utf8'));
  assert.equal(summary.connected, 3);
  assert.equal(summary.sent, broker.taken.length);
  assert.equal(summary.acknowledged, summary.sent);
  assert.match(out, /^connected +3 of 3$/m);
  assert.match(out, /everything sent was acknowledged/);
});

test('run: SIGTERM ends it politely; what stays unacknowledged makes it 1', async (t) => {
  const broker = await createTestBroker(t);
  broker.acknowledge = false;
  const folder = await folderOf(t);
  const files = ['--fleet', join(folder, 'fleet.yaml'), '--credentials', join(folder, 'creds.csv')];
  const child = start(t, ['run', ...files, '--url', broker.url, '--drain', '100ms']);
  const end = endOf(child);
  await broker.until(() => broker.taken.length >= 10, 10_000);
  child.kill('SIGTERM');
  const { code, out } = await end;
  assert.equal(code, 1);
  assert.match(out, /^acknowledged +0$/m);
  assert.match(out, /NOT everything/);
});

test('run: a wrong file ends it with 2 and one clear line', async (t) => {
  const folder = await folderOf(t);
  const path = join(folder, 'fleet.yaml');
  await writeFile(path, FLEET.replace('count: 3', 'count: 4'));
  const files = ['--fleet', path, '--credentials', join(folder, 'creds.csv')];
  const { code, err } = await endOf(start(t, ['run', ...files]));
  assert.equal(code, 2);
  assert.match(err, /creds\.csv: groups\[0\]: expected 4 credentials of type meter, got 3/);
  assert.equal(err.trim().split('\n').length, 1);
});

test('replay: the password may come from the environment; 0 when all is acknowledged', async (t) => {
  const broker = await createTestBroker(t);
  const folder = await folderOf(t);
  const csv = join(folder, 'r.csv');
  await writeFile(csv, 'at,v\n1,1.5\n2,2.5\n');
  const map = join(folder, 'map.yaml');
  await writeFile(
    map,
    'time: { column: at, format: epochS }\nmetrics: { v: { column: v, kind: float } }\n',
  );
  process.env.FIRMWARE_SIM_PASSWORD = 'secret';
  t.after(() => delete process.env.FIRMWARE_SIM_PASSWORD);
  const args = ['--csv', csv, '--map', map, '--url', broker.url, '--username', 'demo/m'];
  const { code, out, err } = await endOf(start(t, ['replay', ...args, '--speed', '0']));
  assert.equal(err, '');
  assert.equal(code, 0, out);
  assert.deepEqual(
    broker.taken.map(({ payload }) => JSON.parse(payload)),
    [
      { ts: 1000, seq: 0, values: { v: 1.5 } },
      { ts: 2000, seq: 1, values: { v: 2.5 } },
    ],
  );
});
