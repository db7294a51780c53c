import assert from 'node:assert/strict';
import { connect } from 'node:net';
import { type TestContext, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { publishBytes, RawClient } from '../helpers/raw-client.ts';
import { SpillwayProcess } from './spillway-process.ts';

/**
 * The real program, held at each level by thresholds that it is always above, under a flood: what operators,
 * load balancers and Prometheus ask is answered, from a thread that the flood does not reach.
 */
const LEVELS = ['normal', 'brake', 'shed', 'refuse'] as const;
type Level = (typeof LEVELS)[number];

const PATHS = ['/healthz', '/readyz', '/metrics', '/'];
const ROUNDS = 25;
/** The machine may be busy with other tests: of so many attempts one has to be good. */
const ATTEMPTS = 5;
const ANSWER_MS = 100;
const BURST = Buffer.concat(
  Array.from({ length: 500 }, () =>
    publishBytes('me/telemetry', Buffer.from('{"temperature":20}'), 0, 0),
  ),
);

function programAt(t: TestContext, level: Level): SpillwayProcess {
  const reached = LEVELS.indexOf(level);
  const of = (one: Level) => (LEVELS.indexOf(one) <= reached ? 0.01 : 0);
  return new SpillwayProcess(t, {
    types: { meter: { metrics: { temperature: { min: -40, max: 85 } } } },
    overload: {
      memoryBytesMax: '1GiB',
      memory: { brake: of('brake'), shed: of('shed'), refuse: of('refuse') },
    },
  });
}

/** Publishes as fast as the gateway reads, or connects where it lets nobody in; until the function is called. */
async function flood(program: SpillwayProcess, level: Level): Promise<() => void> {
  const port = program.mqttPort ?? 0;
  if (level === 'refuse') {
    const timer = setInterval(() => {
      for (let i = 0; i < 10; i++) {
        const socket = connect({ port, host: '127.0.0.1' });
        socket.on('error', () => {});
        socket.end(Buffer.from([0x10, 12, 0, 4, 77, 81, 84, 84, 4, 2, 0, 60, 0, 0]));
        socket.resume();
      }
    }, 20);
    return () => clearInterval(timer);
  }
  const devices = program.addDevices('acme', 'meter', ['d1', 'd2', 'd3', 'd4']);
  const clients = await Promise.all(
    devices.map(({ device, secret }) => RawClient.connect(port, `acme/${device}`, secret)),
  );
  for (const { socket } of clients) {
    const send = () => {
      while (!socket.destroyed && socket.write(BURST));
    };
    socket.on('drain', () => setImmediate(send));
    send();
  }
  return () => {
    for (const client of clients) client.socket.destroy();
  };
}

interface Answers {
  statuses: number[];
  /** p90, ms. */
  slowMs: number;
}

async function answersOf(url: string): Promise<Answers> {
  const times: number[] = [];
  let statuses: number[] = [];
  for (let round = 0; round < ROUNDS; round++) {
    statuses = [];
    for (const path of PATHS) {
      const asked = performance.now();
      const response = await fetch(url + path);
      await response.arrayBuffer();
      times.push(performance.now() - asked);
      statuses.push(response.status);
    }
    await sleep(20);
  }
  times.sort((a, b) => a - b);
  return { statuses, slowMs: times[Math.floor(times.length * 0.9)] ?? 0 };
}

for (const level of LEVELS) {
  test(`at ${level} health, readiness, metrics and console are answered`, async (t) => {
    const program = programAt(t, level);
    await program.start();
    const levelNow = async () => {
      const status = await fetch(`${program.httpUrl}/api/v1/status`);
      return ((await status.json()) as { overload: { level: string } }).overload.level;
    };
    const stop = await flood(program, level);
    for (let tries = 0; (await levelNow()) !== level && tries < 50; tries++) await sleep(100);
    // A flood may brake what nothing else holds up.
    assert.equal(
      (await levelNow()).replace(/^brake$/, level === 'normal' ? 'normal' : '$&'),
      level,
    );
    let answers = await answersOf(program.httpUrl);
    for (let tries = 1; tries < ATTEMPTS && answers.slowMs > ANSWER_MS; tries++)
      answers = await answersOf(program.httpUrl);
    stop();
    t.diagnostic(`${answers.slowMs.toFixed(1)} ms`);
    assert.deepEqual(answers.statuses, [200, level === 'refuse' ? 503 : 200, 200, 200]);
    assert.ok(answers.slowMs <= ANSWER_MS, `${answers.slowMs} ms`);
  });
}
