import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { ERRORS } from '../../src/core/errors.ts';
import { DUPLICATES, LIMITS, REFUSALS, SHED_REASONS } from '../../src/core/refusals.ts';

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
  ['Refusals', REFUSALS],
  ['Shed reasons', SHED_REASONS],
  ['Limits', LIMITS],
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
