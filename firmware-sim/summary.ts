import type { Tally } from './tally.ts';

/** What a run came to. Counts are of messages unless the name says readings. */
export interface Summary {
  startedAt: string;
  seconds: number;
  devices: number;
  /** Connections (a gateway is one for all its devices). */
  connections: number;
  /** Connections that were accepted at least once. */
  connected: number;
  connectedAtEnd: number;
  /** Telemetry messages of QoS 1 and 2, each counted once however often it was transmitted. */
  sent: number;
  acknowledged: number;
  unacknowledged: number;
  /** Telemetry messages of QoS 0. */
  sentUnconfirmed: number;
  /** Transmissions of a message that had been sent before on a connection that broke. */
  retransmitted: number;
  /** Messages sent a second time on purpose; part of `sent`. */
  duplicates: number;
  /** Messages spoilt on purpose by kind; part of `sent`. */
  malformed: Record<string, number>;
  /** Readings held back on purpose. */
  late: number;
  readingsSampled: number;
  /** Well-formed readings, duplicates not counted. */
  readingsSent: number;
  readingsAcknowledged: number;
  droppedFromBuffer: number;
  leftInBuffer: number;
  missedSamples: number;
  stateSent: number;
  stateAcknowledged: number;
  commands: number;
  /** By code. */
  receipts: Record<string, number>;
  receiptsBySeverity: Record<string, number>;
  receiptExamples: Record<string, string>;
  /** MQTT 5: PUBACKs with a reason code of a failure; part of `acknowledged`. */
  pubackRefusals: Record<string, number>;
  reconnects: number;
  disconnects: number;
  subscribeFailures: number;
  connectAttempts: number;
  /** Most attempts in one second. */
  connectAttemptsPeak: number;
  connectFailures: Record<string, number>;
  /** From the loss of a connection until there was another. */
  awayP50Ms: number | null;
  awayP99Ms: number | null;
  awayMaxMs: number | null;
  pubackP50Ms: number | null;
  pubackP99Ms: number | null;
  pubackMaxMs: number | null;
  /** Everything sent was acknowledged and nothing is left to send. */
  complete: boolean;
}

/** What the tally doesn't know by itself. */
export interface Standing {
  devices: number;
  connections: number;
  connectedAtEnd: number;
  leftInBuffer: number;
}

/** The summary as of now. */
export function summarize(tally: Tally, standing: Standing): Summary {
  const unacknowledged = tally.sent - tally.acknowledged;
  const { latency } = tally;
  return {
    startedAt: tally.startedAt.toISOString(),
    seconds: Math.round(performance.now() - tally.startedMs) / 1000,
    devices: standing.devices,
    connections: standing.connections,
    connected: tally.everConnected,
    connectedAtEnd: standing.connectedAtEnd,
    sent: tally.sent,
    acknowledged: tally.acknowledged,
    unacknowledged,
    sentUnconfirmed: tally.sentUnconfirmed,
    retransmitted: tally.retransmitted,
    duplicates: tally.duplicates,
    malformed: { ...tally.malformed },
    late: tally.late,
    readingsSampled: tally.sampled,
    readingsSent: tally.readingsSent,
    readingsAcknowledged: tally.readingsAcknowledged,
    droppedFromBuffer: tally.dropped,
    leftInBuffer: standing.leftInBuffer,
    missedSamples: tally.missed,
    stateSent: tally.stateSent,
    stateAcknowledged: tally.stateAcknowledged,
    commands: tally.commands,
    receipts: tally.receipts.toObject(),
    receiptsBySeverity: tally.receiptSeverities.toObject(),
    receiptExamples: Object.fromEntries(tally.receiptExamples),
    pubackRefusals: tally.pubackRefusals.toObject(),
    reconnects: tally.reconnects,
    disconnects: tally.disconnects,
    subscribeFailures: tally.subscribeFailures,
    connectAttempts: tally.connectAttempts,
    connectAttemptsPeak: tally.connectAttemptsPeak,
    connectFailures: tally.connectFailures.toObject(),
    awayP50Ms: roundMs(tally.away.percentile(0.5)),
    awayP99Ms: roundMs(tally.away.percentile(0.99)),
    awayMaxMs: tally.away.count === 0 ? null : roundMs(tally.away.maxMs),
    pubackP50Ms: roundMs(latency.percentile(0.5)),
    pubackP99Ms: roundMs(latency.percentile(0.99)),
    pubackMaxMs: latency.count === 0 ? null : roundMs(latency.maxMs),
    complete: unacknowledged === 0 && standing.leftInBuffer === 0,
  };
}

function roundMs(ms: number | null): number | null {
  return ms === null ? null : Math.round(ms * 100) / 100;
}

/** The summary as a table for a terminal; rows that have nothing to say are left out. */
export function formatSummary(summary: Summary): string {
  const rows: [string, string][] = [];
  const row = (name: string, value: string | number) => {
    rows.push([name, typeof value === 'number' ? value.toLocaleString('en-US') : value]);
  };
  const unlessZero = (name: string, value: number) => {
    if (value !== 0) row(name, value);
  };
  const counts = (name: string, values: Record<string, number>) => {
    for (const [key, value] of Object.entries(values)) row(`${name} ${key}`, value);
  };
  row('time', `${summary.seconds.toFixed(1)} s`);
  row('devices', summary.devices);
  row('connected', `${summary.connected} of ${summary.connections}`);
  row('sent', summary.sent);
  row('acknowledged', summary.acknowledged);
  row('unacknowledged', summary.unacknowledged);
  unlessZero('sent with QoS 0', summary.sentUnconfirmed);
  row('readings acknowledged', `${summary.readingsAcknowledged} of ${summary.readingsSent}`);
  unlessZero('retransmitted', summary.retransmitted);
  unlessZero('duplicates on purpose', summary.duplicates);
  counts('malformed', summary.malformed);
  unlessZero('late on purpose', summary.late);
  row('dropped from buffer', summary.droppedFromBuffer);
  unlessZero('left in buffer', summary.leftInBuffer);
  unlessZero('samples missed', summary.missedSamples);
  unlessZero('commands', summary.commands);
  counts('receipt', summary.receipts);
  counts('PUBACK refused', summary.pubackRefusals);
  row('reconnects', summary.reconnects);
  if (summary.reconnects > 0) {
    row('away p50', msText(summary.awayP50Ms));
    row('away max', msText(summary.awayMaxMs));
    row('attempts to connect', summary.connectAttempts);
    row('most in one second', summary.connectAttemptsPeak);
  }
  unlessZero('subscriptions refused', summary.subscribeFailures);
  counts('connect failed:', summary.connectFailures);
  row('PUBACK p50', msText(summary.pubackP50Ms));
  row('PUBACK p99', msText(summary.pubackP99Ms));
  const width = Math.max(...rows.map(([name]) => name.length));
  const verdict = summary.complete
    ? 'everything sent was acknowledged'
    : 'NOT everything was sent and acknowledged';
  return [...rows.map(([name, value]) => `${name.padEnd(width)}  ${value}`), verdict].join('\n');
}

function msText(ms: number | null): string {
  return ms === null ? '-' : `${ms} ms`;
}
