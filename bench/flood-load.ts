/**
 * Devices of a flood, as a process of its own. argv[2]: a file with the options as JSON. A line of JSON on
 * stdout for each second, from the time when all were connected, and one with the result at the end.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Backoff, FloodDevice, type GroupOptions, GroupTally } from './flood-device.ts';
import type { SparseCounts } from './latencies.ts';

export interface FloodLoadOptions {
  port: number;
  groups: GroupOptions[];
  seconds: number;
  backoff: Backoff;
  /** Where to write the event times of all readings that were acknowledged: {@link AcknowledgedTimes}. */
  acknowledgedFile?: string;
}

export interface GroupSecond {
  /** Since the line before. */
  offered: number;
  sent: number;
  acknowledged: number;
  lost: number;
  refused: number;
  latencies: SparseCounts;
  /** Now. */
  connected: number;
  /** Connections that found their session, ever. */
  resumed: number;
  /** When all were connected for the last time, ms since the epoch. */
  completeAt: number;
  /** When all connections broke; absent before. */
  brokenAt?: number;
}

export interface FloodSecond {
  /** Its end, ms since the epoch. */
  at: number;
  groups: Record<string, GroupSecond>;
}

export interface FloodLoadEnd {
  end: true;
  /** Publishes that nobody answered although the connection was open. */
  unanswered: number;
}

/** By username. */
export type AcknowledgedTimes = Record<string, number[]>;

const TICK_MS = 4;
const CONNECTS_PER_TICK = 10;
const ANSWERS_WITHIN_MS = 30_000;

const options = JSON.parse(readFileSync(process.argv[2] ?? '', 'utf8')) as FloodLoadOptions;
const groups = options.groups.map((group) => {
  const tally = new GroupTally();
  const devices = group.clients.map(
    (client) => new FloodDevice(options.port, group, client, tally, options.backoff),
  );
  const state: { brokenAt?: number } = {};
  return { group, tally, devices, last: { ...tally }, state };
});
const all = groups.flatMap(({ devices }) => devices);

for (const [index, device] of all.entries()) {
  device.connect();
  if (index % CONNECTS_PER_TICK === 0) await sleep(TICK_MS);
}
while (groups.some(({ tally, group }) => tally.connected < group.clients.length)) await sleep(20);

const began = performance.now();
let last = began;
let seconds = 0;
while (seconds < options.seconds) {
  await sleep(TICK_MS);
  const now = performance.now();
  for (const device of all) device.tick(now - last);
  for (const one of groups) {
    if (
      one.state.brokenAt !== undefined ||
      now - began < (one.group.breakAfter ?? Infinity) * 1_000
    )
      continue;
    one.state.brokenAt = Date.now();
    for (const device of one.devices) device.break();
  }
  last = now;
  if (now - began >= (seconds + 1) * 1_000) {
    seconds++;
    console.log(JSON.stringify(second()));
  }
}
for (const device of all) device.stop();
const deadline = performance.now() + ANSWERS_WITHIN_MS;
const unanswered = () => all.reduce((sum, device) => sum + device.unanswered, 0);
while (unanswered() > 0 && performance.now() < deadline) await sleep(50);
const end: FloodLoadEnd = { end: true, unanswered: unanswered() };
if (options.acknowledgedFile !== undefined) {
  const times: AcknowledgedTimes = {};
  for (const { group, devices } of groups) {
    for (const [index, device] of devices.entries())
      times[group.clients[index]?.username ?? ''] = device.acknowledged;
  }
  writeFileSync(options.acknowledgedFile, JSON.stringify(times));
}
for (const device of all) device.leave();
console.log(JSON.stringify(end));

function second(): FloodSecond {
  const report: FloodSecond = { at: Date.now(), groups: {} };
  for (const one of groups) {
    const { tally, last: before } = one;
    report.groups[one.group.name] = {
      offered: tally.offered - before.offered,
      sent: tally.sent - before.sent,
      acknowledged: tally.acknowledged - before.acknowledged,
      lost: tally.lost - before.lost,
      refused: tally.refused - before.refused,
      latencies: tally.latencies.take(),
      connected: tally.connected,
      resumed: tally.resumed,
      completeAt: tally.completeAt,
      ...one.state,
    };
    one.last = { ...tally };
  }
  return report;
}
