/// <reference lib="dom" />
import assert from 'node:assert/strict';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { pino } from 'pino';
import { chromium } from 'playwright-core';
import { startSpillway } from '../../src/app.ts';
import { configSchema } from '../../src/config/schema.ts';
import { openRegistry } from '../../src/engines.ts';
import { connectDevice, TYPES } from '../helpers/gateway.ts';

const BROWSER = '/usr/bin/chromium';
const skip = existsSync(BROWSER)
  ? false
  : `${BROWSER} is not installed (Debian: apt-get install chromium)`;

test('the console shows what happens, in a real browser', { skip }, async (t) => {
  const dir = mkdtempSync(join(tmpdir(), 'spillway-console-'));
  const config = configSchema.parse({
    data: { dir: join(dir, 'data') },
    gateway: { mqtt: { port: 0 } },
    http: { port: 0 },
    rollup: { baseWindow: '10s', flushInterval: '200ms', niceness: 0 },
    backfill: { windowsPerSecond: 10 },
    types: TYPES,
  });
  const registry = openRegistry(config);
  const { secret } = registry.addDevice({ tenant: 'acme', device: 'd1', type: 'thermostat' });
  registry.close();
  const spillway = await startSpillway(config, pino({ level: 'silent' }), 'test');
  const device = await connectDevice(`mqtt://127.0.0.1:${spillway.mqttPort}`, 'acme/d1', secret);
  const browser = await chromium.launch({
    executablePath: BROWSER,
    args: ['--no-sandbox', '--disable-gpu', '--no-first-run', '--disable-background-networking'],
  });
  t.after(async () => {
    await browser.close();
    device.client.end(true);
    await spillway.stop();
    rmSync(dir, { recursive: true });
  });
  const now = Date.now();
  for (let i = 0; i < 50; i++) {
    const reading = { ts: now - i * 1_000, values: { temperature: 20 + (i % 5), mode: 'auto' } };
    await device.client.publishAsync(device.topic, JSON.stringify(reading), { qos: 1 });
  }
  await device.client.publishAsync(device.topic, '{"temperature":"<b>hot</b>"}', { qos: 1 });

  const page = await browser.newPage();
  const problems: string[] = [];
  page.on('pageerror', (error) => problems.push(error.message));
  page.on('console', (message) => {
    if (message.type() === 'error') problems.push(message.text());
  });
  const foreign: string[] = [];
  page.on('request', (request) => {
    if (!request.url().startsWith(`http://127.0.0.1:${spillway.httpPort}/`))
      foreign.push(request.url());
  });
  await page.goto(`http://127.0.0.1:${spillway.httpPort}/`);
  await page.locator('#codes').getByText('VALUE_KIND').waitFor();
  await page.locator('#devices').getByRole('cell', { name: 'd1', exact: true }).waitFor();
  assert.equal((await page.locator('#connections').textContent())?.trim(), '1');
  assert.match((await page.locator('#state').textContent()) ?? '', /ready/i);
  const listed = page.locator('#devices tr', { hasText: 'd1' });
  await listed.getByText('online', { exact: true }).waitFor();
  await page.locator('#watched').getByText('of 1 device').waitFor();
  await page.locator('#device-status').selectOption('offline');
  await listed.waitFor({ state: 'detached' });
  await page.locator('#device-status').selectOption('');
  // It is hidden while nothing old comes.
  await page.locator('#backfill').waitFor({ state: 'hidden' });
  for (const days of [1, 3]) {
    const old = Array.from({ length: 500 }, (_, i) => {
      return { ts: now - days * 86_400_000 - i * 60_000, values: { temperature: 20 } };
    });
    await device.client.publishAsync(device.topic, JSON.stringify(old), { qos: 1 });
    // What is processed at once pays for it afterwards.
    await sleep(500);
  }
  await page
    .locator('#backfill')
    .getByText(/^Backfill: \d+ old readings? to process/)
    .waitFor();
  await page.locator('#metric').selectOption('temperature');
  await page.locator('#chart canvas').waitFor();
  // Some pixel of the chart is drawn in colour.
  const drawn = await page.locator('#chart canvas').evaluate((canvas) => {
    const { width, height } = canvas as HTMLCanvasElement;
    const pixels = (canvas as HTMLCanvasElement)
      .getContext('2d')
      ?.getImageData(0, 0, width, height).data;
    return pixels?.some((value, index) => index % 4 === 3 && value > 0) === true;
  });
  assert.ok(drawn);
  assert.match((await page.locator('#chart-summary').textContent()) ?? '', /temperature/);
  assert.deepEqual(problems, []);
  assert.deepEqual(foreign, []);
});

test('bound beyond loopback it asks for a token, and shows a tenant its own', {
  skip,
}, async (t) => {
  const dir = mkdtempSync(join(tmpdir(), 'spillway-console-'));
  const config = configSchema.parse({
    data: { dir: join(dir, 'data') },
    gateway: { mqtt: { port: 0 } },
    http: { port: 0, host: '0.0.0.0' },
    types: TYPES,
  });
  const registry = openRegistry(config);
  registry.addDevice({ tenant: 'acme', device: 'd1', type: 'thermostat' });
  registry.addDevice({ tenant: 'other', device: 'd2', type: 'thermostat' });
  const { token } = registry.addToken({ role: 'tenant', tenant: 'acme' });
  registry.close();
  const spillway = await startSpillway(config, pino({ level: 'silent' }), 'test');
  const browser = await chromium.launch({
    executablePath: BROWSER,
    args: ['--no-sandbox', '--disable-gpu', '--no-first-run', '--disable-background-networking'],
  });
  t.after(async () => {
    await browser.close();
    await spillway.stop();
    rmSync(dir, { recursive: true });
  });
  const page = await browser.newPage();
  await page.goto(`http://127.0.0.1:${spillway.httpPort}/`);
  await page.getByLabel('Token').fill(`${token}x`);
  await page.getByRole('button', { name: 'Open' }).click();
  await page.getByRole('alert').getByText('unknown').waitFor();
  await page.getByLabel('Token').fill(token);
  await page.getByRole('button', { name: 'Open' }).click();
  await page.getByRole('cell', { name: 'd1', exact: true }).waitFor();
  assert.equal(await page.getByRole('cell', { name: 'd2', exact: true }).count(), 0);
  await page.getByRole('button', { name: 'Forget token' }).click();
  await page.getByLabel('Token').waitFor();
  assert.equal(await page.getByRole('cell', { name: 'd1', exact: true }).count(), 0);
});

test('the console says how loaded the gateway is, why, and who is held back', {
  skip,
}, async (t) => {
  const dir = mkdtempSync(join(tmpdir(), 'spillway-console-'));
  const config = configSchema.parse({
    data: { dir: join(dir, 'data') },
    gateway: { mqtt: { port: 0 } },
    http: { port: 0 },
    types: TYPES,
    // Whatever it uses is too much.
    overload: { memory: { brake: 0.000_1, shed: 0, refuse: 0 } },
    quotas: { default: { device: { messages: ['5/1s'] } } },
  });
  const registry = openRegistry(config);
  const { secret } = registry.addDevice({ tenant: 'acme', device: 'd1', type: 'thermostat' });
  registry.close();
  const spillway = await startSpillway(config, pino({ level: 'silent' }), 'test');
  const device = await connectDevice(`mqtt://127.0.0.1:${spillway.mqttPort}`, 'acme/d1', secret);
  const browser = await chromium.launch({
    executablePath: BROWSER,
    args: ['--no-sandbox', '--disable-gpu', '--no-first-run', '--disable-background-networking'],
  });
  t.after(async () => {
    await browser.close();
    device.client.end(true);
    await spillway.stop();
    rmSync(dir, { recursive: true });
  });
  const publishes = Array.from({ length: 15 }, (_, i) =>
    device.client.publishAsync(device.topic, `{"temperature":${i}}`, { qos: 1 }),
  );
  await Promise.all(publishes);
  const page = await browser.newPage();
  await page.goto(`http://127.0.0.1:${spillway.httpPort}/`);
  await page.locator('#overload-level').getByText('brake').waitFor();
  assert.match(
    (await page.locator('#overload-text').textContent()) ?? '',
    /slowed down, nothing is lost: memory \([\d.]+ %\), for \d/,
  );
  await page.getByRole('cell', { name: 'normal → brake', exact: true }).waitFor();
  const held = page.locator('#overload-limited tr', { hasText: 'acme/d1' });
  await held.getByText('DEVICE_MESSAGES').waitFor();
  await held.getByText('at most 5 messages in 1s').waitFor();
  // Braking is no reason to send anybody elsewhere.
  assert.match((await page.locator('#state').textContent()) ?? '', /ready/i);
});

test('dead letters are found in groups, shown, tried and replayed', { skip }, async (t) => {
  const dir = mkdtempSync(join(tmpdir(), 'spillway-console-'));
  const settings = (max: number) =>
    configSchema.parse({
      data: { dir: join(dir, 'data') },
      ...{
        gateway: { mqtt: { port: 0 } },
        http: { port: 0 },
        rollup: { flushInterval: '200ms', niceness: 0 },
      },
      types: { probe: { metrics: { v: { max } } } },
    });
  const strict = settings(10);
  const registry = openRegistry(strict);
  const { secret } = registry.addDevice({ tenant: 'acme', device: 'd1', type: 'probe' });
  const { token } = registry.addToken({ role: 'operator' });
  registry.close();
  let spillway = await startSpillway(strict, pino({ level: 'silent' }), 'test');
  const browser = await chromium.launch({
    executablePath: BROWSER,
    args: ['--no-sandbox', '--disable-gpu', '--no-first-run', '--disable-background-networking'],
  });
  t.after(async () => {
    await browser.close();
    await spillway.stop();
    rmSync(dir, { recursive: true });
  });
  const device = await connectDevice(`mqtt://127.0.0.1:${spillway.mqttPort}`, 'acme/d1', secret);
  for (const v of [1, 50, 60, '<b>hot</b>']) {
    await device.client.publishAsync(device.topic, JSON.stringify({ v }), { qos: 1 });
  }
  device.client.end(true);
  await spillway.stop();
  // The type was wrong, and is right by now.
  spillway = await startSpillway(settings(100), pino({ level: 'silent' }), 'test');

  const page = await browser.newPage();
  const problems: string[] = [];
  page.on('pageerror', (error) => problems.push(error.message));
  await page.addInitScript((given) => sessionStorage.setItem('spillway-token', given), token);
  await page.goto(`http://127.0.0.1:${spillway.httpPort}/`);
  const groups = page.locator('#letter-groups');
  await groups.locator('tr').nth(1).waitFor();
  const bounds = groups.locator('tr', { hasText: 'VALUE_BOUNDS' });
  const cells = () => bounds.locator('td').allTextContents();
  assert.deepEqual((await cells()).slice(4, 6), ['2', '2']);

  await groups.locator('tr', { hasText: 'VALUE_KIND' }).getByRole('button').click();
  // As text, whatever it looks like.
  await page.locator('#letters code').getByText('{"v":"<b>hot</b>"}').waitFor();
  await page.locator('#letters-try').click();
  await page
    .locator('#letters-result')
    .getByText('0 would be taken now, not: VALUE_KIND 1.')
    .waitFor();

  await bounds.getByRole('button').click();
  await page.locator('#letters code').getByText('{"v":60}').waitFor();
  assert.equal(await page.locator('#letters tr').count(), 2);
  await page.locator('#letters-try').click();
  await page
    .locator('#letters-result')
    .getByText('Of 2 open letters 2 would be taken now.')
    .waitFor();
  await page.locator('#letters-replay').click();
  await page.locator('#letters-result').getByText('Replayed 2 letters: 2 were taken.').waitFor();
  await page.locator('#letters-range').selectOption('1h');
  await page.locator('#letters-open').waitFor({ state: 'hidden' });
  await bounds.locator('td').nth(4).getByText('0', { exact: true }).waitFor();
  assert.deepEqual((await cells()).slice(4, 6), ['0', '2']);
  assert.deepEqual(problems, []);
});
