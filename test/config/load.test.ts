import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import fc from 'fast-check';
import { loadConfig } from '../../src/config/load.ts';
import { configSchema } from '../../src/config/schema.ts';
import { SpillwayError } from '../../src/core/errors.ts';

/** A file of its own for a test; gone with it. */
function fileWith(t: TestContext, content: string | Uint8Array): string {
  const dir = mkdtempSync(join(tmpdir(), 'spillway-config-'));
  t.after(() => rmSync(dir, { recursive: true }));
  const file = join(dir, 'spillway.yaml');
  writeFileSync(file, content);
  return file;
}

function refusal(file: string): SpillwayError {
  try {
    loadConfig({ file, env: {} });
  } catch (error) {
    assert.ok(error instanceof SpillwayError, String(error));
    return error;
  }
  return assert.fail('the file was taken');
}

test('without a file the defaults hold', () => {
  const { config, sources } = loadConfig({ env: {} });
  assert.deepEqual(config, configSchema.parse({}));
  assert.equal(config.gateway.mqtt.port, 1883);
  assert.equal(config.rollup.baseWindow, 60_000);
  assert.equal(config.log.embedded.diskBytesMax, 4 * 2 ** 30);
  assert.equal(sources.size, 0);
});

test('what the file says replaces the default, and nothing else', (t) => {
  const file = fileWith(t, 'gateway:\n  mqtt: { port: 1884 }\n  payloadBytesMax: 1KiB\n');
  const { config, sources } = loadConfig({ file, env: {} });
  const expected = configSchema.parse({});
  expected.gateway.mqtt.port = 1884;
  expected.gateway.payloadBytesMax = 1024;
  assert.deepEqual(config, expected);
  const place = { from: 'file', file, line: 2, column: 11 };
  assert.deepEqual(sources.get('gateway.mqtt.port'), place);
});

test('a file that is not there is CONFIG_NOT_FOUND, one that cannot be read CONFIG_INVALID', (t) => {
  const file = fileWith(t, '');
  assert.equal(refusal(`${file}.not-there`).code, 'CONFIG_NOT_FOUND');
  assert.equal(refusal(`${file}/below-a-file`).code, 'CONFIG_NOT_FOUND');
  const directory = refusal(join(file, '..'));
  assert.equal(directory.code, 'CONFIG_INVALID');
  assert.match(directory.message, /cannot be read \(EISDIR\)$/);
});

test('a byte order mark and Windows line ends do no harm', (t) => {
  const file = fileWith(t, '\uFEFFhttp:\r\n  port: 81\r\n');
  assert.equal(loadConfig({ file, env: {} }).config.http.port, 81);
});

test('bytes that are no UTF-8, files too large and nesting too deep are refused', (t) => {
  const latin1 = refusal(fileWith(t, Buffer.from('data: { dir: "caf\xe9" }', 'latin1')));
  assert.match(latin1.message, /is no usable YAML: .*utf-8/i);
  const large = refusal(fileWith(t, `# ${'x'.repeat(2 ** 20)}`));
  assert.match(large.message, /is larger than 1048576 bytes$/);
  const deep = refusal(fileWith(t, `types: ${'{a: '.repeat(40)}1${'}'.repeat(40)}`));
  assert.match(deep.message, /too deep$/);
  assert.equal(refusal(fileWith(t, '['.repeat(100_000))).code, 'CONFIG_INVALID');
});

test('a file full of mistakes gets a message that can be read', (t) => {
  const keys = Array.from({ length: 1_000 }, (_, index) => `key${index}: 1`);
  const lines = refusal(fileWith(t, keys.join('\n'))).message.split('\n');
  assert.equal(lines.length, 51);
  assert.equal(lines.at(-1), 'and 950 more');
});

test('any text is taken or refused with CONFIG_INVALID', (t) => {
  const file = fileWith(t, '');
  const piece = fc.constantFrom(
    ...'{}[],:-#&*!|>\'"%@` \n\t<',
    'a',
    '1',
    'types',
    'gateway',
    '\n  ',
  );
  fc.assert(
    fc.property(fc.array(piece, { maxLength: 60 }), (pieces) => {
      writeFileSync(file, pieces.join(''));
      try {
        loadConfig({ file, env: {} });
      } catch (error) {
        assert.ok(error instanceof SpillwayError, String(error));
        assert.equal(error.code, 'CONFIG_INVALID');
      }
    }),
    { numRuns: 500, seed: 20 },
  );
});
