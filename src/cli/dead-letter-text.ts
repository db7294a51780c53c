import { isUtf8 } from 'node:buffer';
import { counted } from '../core/counted.ts';
import type { GroupJson, LetterJson, ReplayJson } from '../http/letters-json.ts';
import type { Trial, TriedReading } from '../ops/letters/trial.ts';
import { alignedLines, printable } from '../reports/table.ts';

/** Dead letters for eyes. Everything ends with a line break; nothing reaches the terminal unescaped. */

const text = (lines: readonly string[]): string => `${lines.join('\n')}\n`;

export function letterTable(letters: readonly LetterJson[]): string {
  const header = ['id', 'received', 'device', 'type', 'version', 'code', 'path', 'actual', 'state'];
  const rows = letters.map((letter) => [
    letter.id,
    letter.received,
    letter.device,
    letter.type,
    letter.typeVersion ?? '',
    letter.code,
    printable(letter.path ?? ''),
    printable(letter.actual ?? '').slice(0, 40),
    stateOf(letter),
  ]);
  return text(alignedLines(header, rows, new Set()));
}

function stateOf({ replayed, attempt = 0 }: LetterJson): string {
  if (replayed !== undefined) return 'replayed';
  return attempt === 0 ? 'open' : `open, ${attempt} tried`;
}

export function groupTable(groups: readonly GroupJson[], by: readonly string[]): string {
  const header = [...by, 'letters', 'open', 'oldest', 'newest'];
  const rows = groups.map((group) => [
    ...by.map((name) => group[name as 'device' | 'code' | 'type' | 'version'] ?? ''),
    ...[String(group.count), String(group.open), group.oldest, group.newest],
  ]);
  return text(alignedLines(header, rows, new Set([by.length, by.length + 1])));
}

/** The fields, and the payload as text where it is text, else in hex. */
export function letterText(letter: LetterJson, payload: Buffer): string {
  const { payload: _, receivedMs, ...fields } = letter;
  const lines = Object.entries(fields).map(
    ([name, value]) => `${name.padEnd(14)}${printable(String(value))}`,
  );
  const cut = payload.length < letter.payloadBytes ? ` of ${letter.payloadBytes}` : '';
  lines.push(
    '',
    `payload: ${cut === '' ? counted(payload.length, 'byte') : `${payload.length}${cut} bytes`}`,
  );
  lines.push(isText(payload) ? printable(payload.toString('utf8')) : hexLines(payload).join('\n'));
  return text(lines);
}

function isText(payload: Buffer): boolean {
  return isUtf8(payload) && !payload.includes(0);
}

const HEX_BYTES = 16;

function hexLines(payload: Buffer): string[] {
  const lines: string[] = [];
  for (let at = 0; at < payload.length; at += HEX_BYTES) {
    const some = payload.subarray(at, at + HEX_BYTES);
    const hex = [...some].map((byte) => byte.toString(16).padStart(2, '0')).join(' ');
    const plain = [...some].map((byte) =>
      byte >= 32 && byte < 127 ? String.fromCharCode(byte) : '.',
    );
    lines.push(
      `${at.toString(16).padStart(8, '0')}  ${hex.padEnd(HEX_BYTES * 3)} ${plain.join('')}`,
    );
  }
  return lines;
}

const counts = (of: Record<string, number>): string =>
  Object.entries(of)
    .map(([code, count]) => `${code} ${count}`)
    .join(', ');

const total = (of: Record<string, number>): number =>
  Object.values(of).reduce((sum, count) => sum + count, 0);

type Outcome = Pick<Trial, 'letters' | 'taken' | 'refused' | 'unreadable' | 'givenUp' | 'readings'>;

function outcomeLines(outcome: Outcome, verb: (count: number) => string): string[] {
  const { letters, taken, refused, unreadable, givenUp, readings } = outcome;
  const lines = [
    `${counted(letters, 'letter')}: ${taken} ${verb(taken)} taken, with ${counted(readings, 'reading')}.`,
  ];
  if (total(refused) > 0)
    lines.push(`${total(refused)} ${verb(total(refused))} refused again: ${counts(refused)}.`);
  if (total(unreadable) > 0) {
    lines.push(`${total(unreadable)} can't be looked at again: ${counts(unreadable)}.`);
  }
  if (givenUp > 0)
    lines.push(
      `${givenUp} ${givenUp === 1 ? 'was' : 'were'} tried too often and ${verb(givenUp)} left alone.`,
    );
  return lines;
}

export function trialText(trial: Trial): string {
  const header = ['id', 'device', 'code', 'now', 'what'];
  const rows = trial.details.map(({ id, device, code, outcome, reason, readings }) => {
    const [first] = readings;
    const more = readings.length > 1 ? ` and ${readings.length - 1} more` : '';
    const what = reason ?? (first === undefined ? '' : `${readingText(first)}${more}`);
    return [id, device, code, outcome, printable(what)];
  });
  const table = rows.length === 0 ? [] : [...alignedLines(header, rows, new Set()), ''];
  return text([...table, ...outcomeLines(trial, () => 'would be')]);
}

function readingText(reading: TriedReading): string {
  if ('refusal' in reading) {
    const { code, path = '', actual = '' } = reading.refusal;
    return [code, path, actual].filter(Boolean).join(' ');
  }
  return `${reading.ts} ${JSON.stringify(reading.values)}`;
}

export function replayText({ id, state, reason, counts: became }: ReplayJson): string {
  const lines = [`Replay ${id}: ${state}${reason === '' ? '' : `, ${reason}`}.`];
  lines.push(...outcomeLines(became, (count) => (count === 1 ? 'is' : 'are')));
  if (became.newLetters > 0) {
    lines.push(
      `${counted(became.newLetters, 'reading of a taken letter is a dead letter', 'readings of taken letters are dead letters')} again.`,
    );
  }
  return text(lines);
}
