import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { loadConfig } from '../../src/config/load.ts';
import { SpillwayError } from '../../src/core/errors.ts';

const DIR = join(import.meta.dirname, '../cases/config');
const names = readdirSync(DIR);
const bad = names.filter((name) => name.endsWith('.bad.yaml'));
const good = names.filter((name) => name.endsWith('.good.yaml'));

for (const name of bad) {
  test(`${name} is refused with the message beside it`, () => {
    const expected = readFileSync(join(DIR, name.replace(/yaml$/, 'txt')), 'utf8').trimEnd();
    assert.throws(
      () => loadConfig({ file: join(DIR, name), env: {} }),
      (error) => {
        assert.ok(error instanceof SpillwayError);
        assert.equal(error.code, 'CONFIG_INVALID');
        assert.equal(error.message.replaceAll(`${DIR}/`, ''), expected);
        return true;
      },
    );
  });
}

for (const name of good) {
  test(`${name} is taken`, () => {
    loadConfig({ file: join(DIR, name), env: {} });
  });
}

test('there are cases of both kinds, and no message without a case', () => {
  assert.ok(bad.length > 10 && good.length > 2);
  const messages = names.filter((name) => name.endsWith('.txt'));
  assert.deepEqual(
    messages.map((name) => name.replace(/txt$/, 'yaml')),
    bad,
  );
});
