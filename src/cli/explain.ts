import { type Command, Option } from 'commander';
import { counted } from '../core/counted.ts';
import type { Explanation } from '../http/explain.ts';
import { alignedLines, printable } from '../reports/table.ts';
import { deviceArgument } from './arguments.ts';
import { print } from './context.ts';
import { openClient, withServer } from './http-client.ts';

/** `spillway explain` */
export function addExplainCommand(program: Command): void {
  withServer(
    program
      .command('explain')
      .argument('<tenant/device>', 'such as acme/thermostat-01', deviceArgument)
      .description(
        'what is known of a device: connections, decisions, clock, completeness; from the running program, whose memory has most of it',
      ),
  )
    .addOption(
      new Option('--format <format>', 'how to print it').choices(['text', 'json']).default('text'),
    )
    .action(async ({ tenant, device }, options) => {
      const path = `/api/v1/devices/${encodeURIComponent(device)}/explain`;
      const explanation = (await openClient(options).get(path, { tenant })) as Explanation;
      const json = `${JSON.stringify(explanation, null, 2)}\n`;
      await print([options.format === 'json' ? json : explanationText(explanation)]);
    });
}

function explanationText(explanation: Explanation): string {
  const sections = [
    identityLines(explanation),
    [...presenceLines(explanation), ...connectionLines(explanation)],
    clockLines(explanation),
    backfillLines(explanation),
    wholenessLines(explanation),
    sequenceLines(explanation),
    placeLines(explanation),
    decisionLines(explanation),
  ];
  return `${sections
    .filter((lines) => lines.length > 0)
    .map((lines) => lines.map(printable).join('\n'))
    .join('\n\n')}\n`;
}

function identityLines({ tenant, device, identity, type }: Explanation): string[] {
  const lines = [`${tenant}/${device}`];
  if (identity === null) lines.push('not registered');
  else {
    const via = identity.via === null ? '' : `, ${identity.via} reports for it`;
    lines.push(`registered ${identity.registered} as ${identity.type}${via}`);
  }
  if (type === null) lines.push('its type is not declared');
  else {
    const period = type.period === null ? 'no period' : `every ${type.period}`;
    lines.push(
      `type ${type.name}, version ${type.version}: ${period}, at most ${type.futureMax} ahead (${type.future}) and ${type.pastMax} back`,
    );
  }
  return lines;
}

function presenceLines({ presence: { status, since, heard } }: Explanation): string[] {
  if (status === null) return [];
  const from = since === null ? '' : ` since ${since}`;
  return [`${status}${from}, last heard of ${heard ?? 'never'}`];
}

function connectionLines({ gateway }: Explanation): string[] {
  if (gateway === null) return ['No gateway answered.'];
  const { connections, lastConnection } = gateway;
  const text = (one: (typeof connections)[number]) =>
    `from ${one.from} by ${one.protocol}, client id ${one.clientId || '(none)'}, ${one.clean ? 'clean session' : 'kept session'}, keep-alive ${one.keepAliveSeconds} s`;
  const lines = connections.map((one) => `connected since ${one.since} ${text(one)}`);
  if (lines.length === 0) lines.push('not connected');
  if (lastConnection !== null) {
    const { since, endedAt, reason } = lastConnection;
    lines.push(`before that ${since} to ${endedAt} ${text(lastConnection)}; ended by ${reason}`);
  }
  return lines;
}

function clockLines({ gateway }: Explanation): string[] {
  const clock = gateway?.clock ?? null;
  if (clock === null) return [];
  const { skewMs, spreadMs, settled, readings } = clock;
  const way = skewMs < 0 ? 'behind' : 'ahead';
  const sure = settled ? '' : ', not settled: few readings, buffered ones, or a clock that jumps';
  return [
    `clock ${Math.abs(skewMs)} ms ${way}, within ${spreadMs} ms over ${counted(readings, 'reading')}${sure}`,
  ];
}

function backfillLines({ gateway, offsets }: Explanation): string[] {
  const backfill = gateway?.backfill ?? null;
  const waiting = (offsets ?? [])
    .filter(({ isBackfill }) => isBackfill)
    .reduce((sum, { logEnd, storePosition }) => sum + logEnd - (storePosition ?? 0), 0);
  const lines: string[] = [];
  if (backfill !== null) {
    const { readings, since, at, ts, oldest } = backfill;
    lines.push(
      `${counted(readings, 'old reading')} came since ${since}, the oldest of ${oldest}, the last at ${at} of ${ts}`,
    );
  }
  if (waiting > 0)
    lines.push(
      `of all devices ${counted(waiting, 'old reading waits', 'old readings wait')} to be processed`,
    );
  return lines;
}

function wholenessLines({ completeness, gaps }: Explanation): string[] {
  const { expected, received, deadLettered } = completeness;
  const of = expected === null ? '' : ` of ${expected} expected`;
  const letters = Object.entries(deadLettered).map(([code, count]) => `${code} ${count}`);
  const lines = [`last 24 hours: ${counted(received, 'reading')}${of}`];
  if (letters.length > 0) lines.push(`dead letters: ${letters.join(', ')}`);
  for (const gap of gaps) {
    const missing = gap.expected === null ? 'nothing' : `${gap.received} of ${gap.expected}`;
    lines.push(`  ${gap.from}: ${missing}`);
  }
  return lines;
}

function anew(restarts: number): string {
  if (restarts === 0) return 'it never began anew';
  return `it began anew ${restarts === 1 ? 'once' : `${restarts} times`}`;
}

function sequenceLines({ sequence }: Explanation): string[] {
  if (sequence === null) return [];
  const { readings, firstSeq, lastSeq, missing, refused, restarts, gaps, gapCount } = sequence;
  const whole = sequence.complete ? '' : '; more than that is not looked at';
  const lines = [
    `by its own counter ${counted(readings, 'reading')} from ${firstSeq} to ${lastSeq}, ${missing} missing in ${counted(gapCount, 'gap')}` +
      `${refused > 0 ? `, ${refused} of them refused` : ''}; ${anew(restarts)}${whole}`,
  ];
  for (const gap of gaps) {
    const numbers = gap.missing === 1 ? `${gap.first}` : `${gap.first} to ${gap.last}`;
    const its = gap.refused === 0 ? '' : `, ${gap.refused} refused`;
    lines.push(`  ${numbers} (${gap.missing}${its}) between ${gap.after} and ${gap.before}`);
  }
  return lines;
}

function placeLines({ newest, offsets }: Explanation): string[] {
  const lines: string[] = [];
  if (newest !== null) {
    const { ts, received, partition, offset } = newest;
    lines.push(`newest ${ts}, received ${received}: offset ${offset} of partition ${partition}`);
  }
  for (const { partition, isBackfill, logEnd, storePosition } of offsets ?? []) {
    lines.push(
      `  partition ${partition}${isBackfill ? ' (old readings)' : ''}: log to ${logEnd}, store to ${storePosition ?? 'nothing'}`,
    );
  }
  return lines;
}

function decisionLines({ gateway }: Explanation): string[] {
  const decisions = gateway?.decisions ?? [];
  if (decisions.length === 0) return [];
  const rows = decisions.map(({ at, what, code, count }) => [at, what, code, String(count)]);
  return alignedLines(['when', 'decision', 'code', 'count'], rows, new Set([3]));
}
