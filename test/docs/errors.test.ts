import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { ERRORS } from '../../src/core/errors.ts';
import {
  CONNECTION_ENDS,
  DUPLICATES,
  LIMITS,
  REFUSALS,
  SHED_REASONS,
  SLOWED_BY,
  UNREADABLE,
} from '../../src/core/refusals.ts';
import { HTTP_ERRORS } from '../../src/http/errors.ts';

const PAGE = readFileSync(join(import.meta.dirname, '../../docs/errors.md'), 'utf8');

/** The cells of the table under a heading, without its head. */
function table(heading: string): string[][] {
  const section = PAGE.split(/^## /m).find((part) => part.startsWith(`${heading}\n`)) ?? '';
  const rows = section.split('\n').filter((line) => line.startsWith('| `'));
  return rows.map((row) =>
    row
      .split('|')
      .slice(1, -1)
      .map((cell) => cell.trim()),
  );
}

function codes(heading: string): string[] {
  return table(heading).map(([code = '']) => code.replaceAll('`', ''));
}

const SECTIONS: [string, Record<string, unknown>][] = [
  ['Errors', ERRORS],
  ['HTTP', HTTP_ERRORS],
  ['Refusals', REFUSALS],
  ['Shed reasons', SHED_REASONS],
  ['Limits', LIMITS],
  ['Held back', SLOWED_BY],
  ['Ends of connections', CONNECTION_ENDS],
  ['Unreadable letters', UNREADABLE],
  ['Duplicates', DUPLICATES],
];

for (const [heading, catalogue] of SECTIONS) {
  test(`${heading}: the page and the source have the same codes, in the same order`, () => {
    assert.deepEqual(codes(heading), Object.keys(catalogue));
  });

  test(`${heading}: every code has a meaning and something to do`, () => {
    for (const cells of table(heading)) {
      assert.equal(cells.length, heading === 'Errors' ? 4 : 3, cells[0]);
      for (const cell of cells.slice(-2)) assert.match(cell, /\w.*\.$/, cells[0]);
    }
  });
}

test('the page says of each error whether the same call may succeed later', () => {
  for (const [code = '', again] of table('Errors')) {
    const { retryable } = ERRORS[code.replaceAll('`', '') as keyof typeof ERRORS];
    assert.equal(again, retryable ? 'yes' : 'no', code);
  }
});

test('the page has no table that nobody compares', () => {
  const headings = [...PAGE.matchAll(/^## (.*)$/gm)].map((match) => match[1]);
  assert.deepEqual(
    headings,
    SECTIONS.map(([heading]) => heading),
  );
});

/** What looks like a code and is shown to nobody: of Node, Fastify and the YAML parser, and variables. */
const FOREIGN = /^(SPILLWAY|FST|HPE|ERR)_|^(DUPLICATE_KEY|TAG_RESOLVE_FAILED)$/;

test('every code in the source is in a catalogue', () => {
  const known = new Set(SECTIONS.flatMap(([, catalogue]) => Object.keys(catalogue)));
  const root = join(import.meta.dirname, '../../src');
  const files = readdirSync(root, { recursive: true, encoding: 'utf8' })
    .filter((name) => name.endsWith('.ts'))
    // Kafka has names of its own for its errors.
    .filter((name) => !name.startsWith(join('log', 'kafka')));
  const strange = files.flatMap((name) => {
    const found = readFileSync(join(root, name), 'utf8').matchAll(/'([A-Z]{2,}(?:_[A-Z]+)+)'/g);
    return [...found]
      .map(([, code = '']) => code)
      .filter((code) => !known.has(code) && !FOREIGN.test(code))
      .map((code) => `${name}: ${code}`);
  });
  assert.ok(files.length > 100);
  assert.deepEqual(strange, []);
});
