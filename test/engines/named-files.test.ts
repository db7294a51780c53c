import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { configSchema } from '../../src/config/schema.ts';
import { checkNamedFiles, metricsTokenOf } from '../../src/engines/secret-file.ts';

test('all files that a configuration names are looked at before anything starts', (t) => {
  const dir = mkdtempSync(join(tmpdir(), 'spillway-files-'));
  t.after(() => rmSync(dir, { recursive: true }));
  const file = (name: string, content: string) => {
    writeFileSync(join(dir, name), content);
    return join(dir, name);
  };
  const here = file('here', 'a secret of more than twenty characters\n');
  const nowhere = join(dir, 'nowhere');
  const named = (path: string, roles: string[], short = path) =>
    configSchema.parse({
      roles,
      log: {
        engine: 'kafka',
        kafka: {
          tls: { enabled: true, caFile: path },
          sasl: { mechanism: 'plain', username: 'u', passwordFile: path },
        },
      },
      store: { engine: 'influxdb', influxdb: { tokenFile: path } },
      http: { metricsTokenFile: short },
    });
  const all = ['gateway', 'rollup', 'http'];
  checkNamedFiles(named(here, all));
  assert.throws(() => checkNamedFiles(named(nowhere, all, file('short', 'short'))), {
    code: 'CONFIG_INVALID',
    message: [
      'http.metricsTokenFile: expected at least 20 characters',
      `log.kafka.tls.caFile: ${nowhere} can't be read (ENOENT)`,
      `log.kafka.sasl.passwordFile: ${nowhere} can't be read (ENOENT)`,
      `store.influxdb.tokenFile: ${nowhere} can't be read (ENOENT)`,
    ].join('\n'),
  });
  // A gateway writes to no store, and engines that are not chosen need nothing.
  const gateway = named(nowhere, ['gateway'], here);
  assert.throws(() => checkNamedFiles(gateway), { message: /^(?!.*influxdb)/s });
  const embedded = named(nowhere, all, here);
  embedded.log.engine = 'embedded';
  embedded.store.engine = 'embedded';
  checkNamedFiles(embedded);
  assert.equal(metricsTokenOf(embedded), 'a secret of more than twenty characters');
});
