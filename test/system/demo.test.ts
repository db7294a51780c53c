import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { Child, CLI, cleanEnvironment, command } from './spillway-process.ts';

const READY_MS = 10_000;
const RUN_MS = 6_000;

test('the demo: addresses within ten seconds, a curl that answers, a clean end, and the same again', {
  timeout: 120_000,
}, async (t) => {
  const dir = mkdtempSync(join(tmpdir(), 'spillway-demo-'));
  const env = {
    SPILLWAY_DATA_DIR: dir,
    SPILLWAY_GATEWAY_MQTT_PORT: '0',
    SPILLWAY_HTTP_PORT: '0',
  };

  const began = performance.now();
  const first = await startDemo(t, env);
  t.diagnostic(`ready after ${Math.round(performance.now() - began)} ms`);
  const credentials = readFileSync(join(dir, 'demo-credentials.csv'), 'utf8');
  assert.equal(credentials.trim().split('\n').length, 51, 'fifty devices and a header');
  const console = await fetch(first.console);
  assert.equal(console.status, 200);
  assert.match(await console.text(), /<html/i);

  const printed = await untilRows(first.curl);
  t.diagnostic(
    `the printed curl gave rows ${Math.round(performance.now() - began)} ms after the start`,
  );
  assert.match(printed, /^time,device,metric,/);
  assert.match(printed, /,thermostat-01,temperature,-?\d/);
  const report = await command(t, first.report, env);
  assert.equal(report.code, 0, report.stderr);
  assert.match(report.stdout, /^temperature$/m);
  assert.match(report.stdout, /T.*Z +thermostat-01 +-?\d/);

  await sleep(Math.max(0, RUN_MS - (performance.now() - began)));
  await endDemo(first.child);
  const account = await command(t, first.audit, env);
  assert.equal(account.code, 0, account.stderr);
  assert.match(account.stdout, /Every message is accounted for\./);

  const second = await startDemo(t, env);
  assert.equal(second.token, first.token, 'the token is used again');
  assert.equal(readFileSync(join(dir, 'demo-credentials.csv'), 'utf8'), credentials);
  await sleep(1_500);
  await endDemo(second.child);
  rmSync(dir, { recursive: true, force: true });
});

async function startDemo(t: TestContext, env: Record<string, string>) {
  const child = new Child(t, [CLI, 'demo'], {
    env: cleanEnvironment({ ...env, SPILLWAY_ROLLUP_NICENESS: '0' }),
  });
  t.after(async () => {
    // Killed at once it could not end its fleet; a second signal makes it end with it.
    if (child.isOver) return;
    child.process.kill('SIGINT');
    await sleep(50);
    child.process.kill('SIGINT');
    await child.end(5_000);
  });
  await child.printed(/Ctrl-C drains and ends/, READY_MS);
  const text = child.stdout.replace(/ \\\n +/g, ' ');
  const find = (pattern: RegExp): string => {
    const found = pattern.exec(text)?.[1];
    assert.ok(found !== undefined, `${pattern} in\n${text}`);
    return found;
  };
  const token = find(/Bearer ([^"]+)"/);
  const url = find(/curl .*"(http[^"]+)"/);
  return {
    child,
    token,
    console: find(/Console +(http\S+)/),
    curl: () => fetch(url, { headers: { authorization: `Bearer ${token}` } }),
    report: find(/spillway -- (report .+)/).split(/ +/),
    audit: find(/spillway -- (audit .+)/).split(/ +/),
  };
}

/** Asks until the first rollups are there. */
async function untilRows(curl: () => Promise<Response>): Promise<string> {
  const until = performance.now() + 10_000;
  for (;;) {
    const response = await curl();
    const text = await response.text();
    assert.equal(response.status, 200, text);
    if (/thermostat-01,temperature,-?\d/.test(text)) return text;
    assert.ok(performance.now() < until, `no rows came:\n${text}`);
    await sleep(100);
  }
}

async function endDemo(child: Child): Promise<void> {
  child.process.kill('SIGINT');
  assert.equal(await child.end(), 0, child.stderr);
  assert.match(child.stdout, /^everything sent was acknowledged$/m);
  assert.match(child.stdout, /^Stopped; nothing acknowledged was lost/m);
  assert.equal(child.stderr, '');
}
