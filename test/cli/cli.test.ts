import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, type TestContext, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { systemClock } from '../../src/core/clock.ts';
import { ERRORS, type ErrorCode } from '../../src/core/errors.ts';
import { PasswordVerifier } from '../../src/tenants/passwords.ts';
import { Registry } from '../../src/tenants/registry.ts';

const MAIN = fileURLToPath(new URL('../../src/spillway.js', import.meta.url));

interface Result {
  code: number | null;
  stdout: string;
  stderr: string;
}

/** A directory with a configuration, and the program in it. */
function createDir(t: TestContext) {
  const dir = mkdtempSync(join(tmpdir(), 'spillway-cli-'));
  t.after(() => rmSync(dir, { recursive: true }));
  const file = (name: string, content: string) => {
    const path = join(dir, name);
    writeFileSync(path, content);
    return path;
  };
  const config = file(
    'spillway.yaml',
    `data: { dir: ${join(dir, 'data')} }
types:
  thermostat: { metrics: { temperature: { unit: °C } }, period: 10s }
  meter: { unknownMetrics: keep }
`,
  );
  const { SPILLWAY_CONFIG: _, ...env } = process.env;
  const bare = (args: string[], more: Record<string, string> = {}) =>
    new Promise<Result>((resolve) => {
      const child = spawn(process.execPath, [MAIN, ...args], {
        cwd: dir,
        env: { ...env, ...more },
        stdio: ['ignore', 'pipe', 'pipe'],
      });
      const result = { code: null as number | null, stdout: '', stderr: '' };
      child.stdout.setEncoding('utf8').on('data', (text) => {
        result.stdout += text;
      });
      child.stderr.setEncoding('utf8').on('data', (text) => {
        result.stderr += text;
      });
      child.once('close', (code) => resolve({ ...result, code }));
    });
  return {
    dir,
    file,
    bare,
    run: (...args: string[]) => bare([...args, '--config', config]),
    registry(): Registry {
      return new Registry({
        dir: join(dir, 'data'),
        types: new Set(['thermostat', 'meter']),
        clock: systemClock,
      });
    },
  };
}

function good(result: Result): string {
  assert.equal(result.stderr, '');
  assert.equal(result.code, 0);
  return result.stdout;
}

/** On stderr stands the code, what happened, and what to do next; stdout is empty. */
function bad(
  result: Result,
  code: ErrorCode,
  message: RegExp,
  next: string = ERRORS[code].next,
): void {
  const [first = '', ...rest] = result.stderr.split('\n');
  assert.ok(first.startsWith(`${code}: `), result.stderr);
  assert.match(result.stderr, message);
  assert.ok(rest.includes(next), result.stderr);
  assert.equal(result.stdout, '');
  assert.equal(result.code, 1);
}

// Most of the time is spent starting the program.
describe('the command line', { concurrency: 3 }, () => {
  test('devices are added, listed and removed; their secrets are printed once and are good', async (t) => {
    const { run, registry } = createDir(t);
    const added = good(
      await run('device', 'add', '--tenant', 'acme', '--type', 'thermostat', '--count', '2'),
    );
    const [head, ...lines] = added.trimEnd().split('\n');
    assert.equal(head, 'tenant,device,type,secret');
    const rows = lines.map((line) => line.split(','));
    assert.deepEqual(
      rows.map(([tenant, device, type]) => [tenant, device, type]),
      [
        ['acme', 'thermostat-01', 'thermostat'],
        ['acme', 'thermostat-02', 'thermostat'],
      ],
    );
    const named = ['device', 'add', '--tenant', 'acme', '--type', 'meter', '--name', 'leaf'];
    good(await run(...named, '--via', 'thermostat-01'));
    const list = good(await run('device', 'list'));
    assert.equal(
      list,
      'tenant,device,type,via\nacme,leaf,meter,thermostat-01\nacme,thermostat-01,thermostat,\nacme,thermostat-02,thermostat,\n',
    );
    const open = registry();
    t.after(() => open.close());
    const verifier = new PasswordVerifier(open);
    for (const [tenant, device, , secret = ''] of rows) {
      const presented = { username: `${tenant}/${device}`, password: Buffer.from(secret) };
      assert.ok(await verifier.verify(presented));
      assert.ok(!list.includes(secret));
    }
    assert.equal(good(await run('device', 'remove', 'acme/thermostat-01')), '');
    const [gone, other, exists, type, count] = await Promise.all([
      run('device', 'remove', 'acme/thermostat-01'),
      run('device', 'list', '--tenant', 'nobody'),
      run(...named),
      run('device', 'add', '--tenant', 'acme', '--type', 'toaster'),
      run('device', 'add', '--tenant', 'acme', '--type', 'meter', '--count', 'many'),
    ]);
    bad(gone, 'DEVICE_UNKNOWN', /acme\/thermostat-01/);
    assert.equal(other.stdout, 'tenant,device,type,via\n');
    assert.match(other.stderr, /no devices of tenant nobody/);
    assert.equal(other.code, 0);
    bad(exists, 'DEVICE_EXISTS', /acme\/leaf/);
    bad(type, 'TYPE_UNKNOWN', /"toaster".*thermostat, meter/);
    bad(count, 'ARGUMENT_INVALID', /from 1 to 1000000/, 'See `spillway device add --help`.');
  });

  test('devices are imported with the secrets that they have, all or none', async (t) => {
    const { run, file, registry } = createDir(t);
    const csv = file(
      'devices.csv',
      '\ufefftype,secret,tenant,device\nmeter,"s3cret, with ""all""",acme,d1\n\nmeter,hunter2-hunter2,acme,d2\n',
    );
    assert.equal(good(await run('device', 'import', csv)), '2 devices imported.\n');
    const open = registry();
    t.after(() => open.close());
    const password = Buffer.from('s3cret, with "all"');
    assert.ok(await new PasswordVerifier(open).verify({ username: 'acme/d1', password }));

    const SECRET = 'hunter2-hunter2';
    const cases: [string, RegExp][] = [
      ['', /row 1: .*acme\/d1 exists/],
      ['acme,d3,meter,short\n', /row 1: .*exists/],
      [`acme,d3,meter,"${SECRET}"x\n`, /Invalid Closing Quote at line 2/],
      [`acme,d3,meter,${SECRET}"x\n`, /Invalid Opening Quote at line 2/],
      [`acme,d3,meter,"${SECRET}\n`, /Quote Not Closed at line 2/],
      [`acme,d3,meter\n`, /Invalid Record Length at line 2/],
      [`acme,d3,,${SECRET}\n`, /row 1 lacks type/],
      [`acme,d3,meter,${SECRET}\nacme,d3,meter,${SECRET}\n`, /row 2: acme\/d3 stands in row 1/],
      [`acme,d3,toaster,${SECRET}\n`, /row 1: .*"toaster"/],
    ];
    const results = await Promise.all(
      cases.map(([rows], i) => {
        const known = rows === '' || rows.includes('short');
        const content = `tenant,device,type,secret\n${known ? `acme,d1,meter,${SECRET}\n` : ''}${rows}`;
        return run('device', 'import', file(`${i}.csv`, content));
      }),
    );
    for (const [i, result] of results.entries()) {
      bad(result, 'IMPORT_INVALID', cases[i]?.[1] ?? /never/);
      assert.ok(!result.stderr.includes('hunter2'), result.stderr);
    }
    const [missing, columns] = await Promise.all([
      run('device', 'import', 'nowhere.csv'),
      run('device', 'import', file('columns.csv', `secret,tenant,device\n${SECRET},acme,d3\n`)),
    ]);
    bad(
      missing,
      'IMPORT_INVALID',
      /nowhere\.csv can't be read/,
      'Name a CSV file with the columns tenant,device,type,secret.',
    );
    bad(columns, 'IMPORT_INVALID', /lacks type; expected the columns tenant,device,type,secret/);
    assert.equal(open.devices().length, 2);
  });

  test('tokens are printed once, listed without them, and removed', async (t) => {
    const { run, registry } = createDir(t);
    const operator = good(await run('token', 'add', '--operator')).trim();
    const tenant = good(await run('token', 'add', '--tenant', 'acme')).trim();
    const open = registry();
    t.after(() => open.close());
    assert.deepEqual(open.verifyToken(operator), { role: 'operator' });
    assert.deepEqual(open.verifyToken(tenant), { role: 'tenant', tenant: 'acme' });
    const list = good(await run('token', 'list'));
    const [head, ...lines] = list.trimEnd().split('\n');
    assert.equal(head, 'id,role,tenant,created');
    assert.ok(!list.includes(operator) && !list.includes(tenant));
    const id = lines.find((line) => line.includes(',operator,'))?.split(',')[0] ?? '';
    good(await run('token', 'remove', id));
    assert.equal(open.verifyToken(operator), undefined);
    const [gone, neither, both, name] = await Promise.all([
      run('token', 'remove', id),
      run('token', 'add'),
      run('token', 'add', '--operator', '--tenant', 'acme'),
      run('token', 'add', '--tenant', 'a/b'),
    ]);
    const help = 'See `spillway token add --help`.';
    bad(gone, 'NOT_FOUND', new RegExp(id), 'See the ids with `spillway token list`.');
    bad(neither, 'ARGUMENT_INVALID', /--tenant <name> or --operator/, help);
    bad(both, 'ARGUMENT_INVALID', /--tenant <name> or --operator/, help);
    bad(name, 'ARGUMENT_INVALID', /'a\/b'/, help);
  });

  test('config shows every key and where it comes from; a wrong one shows every finding', async (t) => {
    const { dir, run, bare, file } = createDir(t);
    const wrong = file(
      'wrong.yaml',
      'gateway:\n  inflightMax: 0\n  payloadBytesMax: lots\nlogg: {}\n',
    );
    const [explained, environment, invalid, missing, defaults] = await Promise.all([
      run('config'),
      bare(['config'], {
        SPILLWAY_CONFIG: join(dir, 'spillway.yaml'),
        SPILLWAY_GATEWAY_MQTT_PORT: '1999',
      }),
      bare(['config', '--config', wrong]),
      bare(['config', '--config', 'nowhere.yaml']),
      bare(['config']),
    ]);
    assert.match(good(explained), /^data\.dir = .*data" {2}\(.*spillway\.yaml:1:9\)$/m);
    assert.match(explained.stdout, /^gateway\.mqtt\.port = 1883 {2}\(default\)$/m);
    assert.match(
      good(environment),
      /^gateway\.mqtt\.port = 1999 {2}\(.*SPILLWAY_GATEWAY_MQTT_PORT.*\)$/m,
    );
    assert.match(good(defaults), /^gateway\.mqtt\.port = 1883 {2}\(default\)$/m);
    bad(invalid, 'CONFIG_INVALID', /inflightMax[\s\S]*payloadBytesMax[\s\S]*logg/);
    bad(missing, 'CONFIG_NOT_FOUND', /nowhere\.yaml/);
  });

  test('a report and an audit of an empty data directory say that there is nothing', async (t) => {
    const { dir, run } = createDir(t);
    good(await run('device', 'add', '--tenant', 'acme', '--type', 'meter', '--name', 'd1'));
    const report = ['report', '--tenant', 'acme'];
    const [table, csv, relative, audit, wrong, format, stranger] = await Promise.all([
      run(...report),
      run(...report, '--format', 'csv', '--from', '-5m'),
      run(...report, '--from', '-5m', '--to', '-1m', '--step', '1m', '--device', 'd1'),
      run('audit'),
      run(...report, '--from', 'yesterday'),
      run(...report, '--format', 'poem'),
      run(...report, '--device', 'd1', '--device', 'd2'),
    ]);
    assert.match(good(table), /No data in this range/);
    assert.equal(csv.code, 0);
    assert.equal(csv.stdout, 'time,device,metric,mean,min,max,count\r\n');
    assert.doesNotThrow(() => JSON.parse(csv.stderr));
    assert.match(good(relative), /step 1m/);
    assert.match(good(audit), /Every message is accounted for/);
    const next = 'Correct the option of this name; `--help` shows what it takes.';
    bad(wrong, 'QUERY_INVALID', /"yesterday"/, next);
    const help = 'See `spillway report --help`.';
    bad(format, 'ARGUMENT_INVALID', /--format <format>.*poem/, help);
    assert.match(stranger.stderr, /^There is no device acme\/d2, and no reading of it\.\n$/);
    assert.match(stranger.stdout, /No data in this range/);
    assert.equal(stranger.code, 0);
    // Nothing is made of what was only asked for.
    assert.equal(existsSync(join(dir, 'data', 'store')), false);
    assert.equal(existsSync(join(dir, 'data', 'log', 'log.db')), false);
  });

  test('a report and an account of a tenant that nobody knows are errors, an empty list is none', async (t) => {
    const { run } = createDir(t);
    const [report, audit, letters] = await Promise.all([
      run('report', '--tenant', 'nobody', '--format', 'csv'),
      run('audit', '--tenant', 'nobody'),
      run('dead-letters', 'list', '--tenant', 'nobody'),
    ]);
    bad(report, 'TENANT_UNKNOWN', /no tenant nobody.*data/);
    bad(audit, 'TENANT_UNKNOWN', /no tenant nobody.*data/);
    assert.match(letters.stdout, /^id +received/);
    assert.match(letters.stderr, /^No dead letters of nobody match in the last 24 hours/);
    assert.equal(letters.code, 0);
  });

  test('what goes wrong with the running program is said in the words of the command line', async (t) => {
    const { run } = createDir(t);
    const foreign = createServer((request, response) => {
      const isKnown = request.headers.authorization === 'Bearer known';
      const error = { code: 'UNAUTHORIZED', message: 'The token is unknown.', next: 'Send it.' };
      response.writeHead(isKnown ? 502 : 401);
      response.end(isKnown ? '<html>' : JSON.stringify({ error }));
    });
    await new Promise<void>((resolve) => foreign.listen(0, '127.0.0.1', resolve));
    t.after(() => foreign.close());
    const url = `http://127.0.0.1:${(foreign.address() as AddressInfo).port}`;
    const status = ['device', 'status', '--url'];
    const [none, wrong, proxy, nonsense, letter, roles] = await Promise.all([
      run(...status, url),
      run(...status, url, '--token', 'unknown'),
      run(...status, url, '--token', 'known'),
      run(...status, 'localhost', '--token', 'known'),
      run('dead-letters', 'show', '1767225600123-0-4711', '--tenant', 'acme'),
      run('run', '--roles', 'gateway'),
    ]);
    const purge = await run('dead-letters', 'purge', '--tenant', 'acme', '--token', 'known');
    const all = 'To purge all of a time give --from, such as --from -30d.';
    bad(purge, 'ARGUMENT_INVALID', /--letter, or at least one filter/, all);
    const token =
      'Give a valid token with --token or SPILLWAY_TOKEN; `spillway token add` makes one.';
    bad(none, 'UNAUTHORIZED', /needs a token/, token);
    bad(wrong, 'UNAUTHORIZED', /token is unknown/, token);
    bad(proxy, 'ANSWER_UNKNOWN', /answered 502/);
    bad(nonsense, 'ARGUMENT_INVALID', /'localhost'/, 'See `spillway device status --help`.');
    const ids = 'See the ids with `spillway dead-letters list --tenant acme`.';
    bad(letter, 'NOT_FOUND', /1767225600123-0-4711/, ids);
    bad(roles, 'CONFIG_INVALID', /^CONFIG_INVALID: --roles: expected all roles/);
  });

  test('what is not understood is said on stderr, help and version on stdout', async (t) => {
    const { bare, run } = createDir(t);
    const [unknown, lacking, help, version] = await Promise.all([
      bare(['frobnicate']),
      run('device', 'add', '--type', 'meter'),
      bare(['--help']),
      bare(['--version']),
    ]);
    for (const { code, stdout, stderr } of [unknown, lacking]) {
      assert.equal(code, 1);
      assert.equal(stdout, '');
      assert.match(stderr, /^ARGUMENT_INVALID: .*\nSee `spillway .*--help`\.\n$/);
    }
    assert.match(lacking.stderr, /--tenant/);
    for (const command of ['run', 'demo', 'config', 'device', 'token', 'report', 'audit'])
      assert.match(good(help), new RegExp(`^ {2}${command}\\b`, 'm'));
    const { version: expected } = JSON.parse(
      readFileSync(fileURLToPath(new URL('../../package.json', import.meta.url)), 'utf8'),
    );
    assert.equal(good(version), `${expected}\n`);
  });

  test('a data directory that can not be used is an error with its reason, not a crash', async (t) => {
    const { dir, run, file } = createDir(t);
    file('data', 'not a directory');
    const result = await run('device', 'list');
    assert.equal(result.code, 1);
    assert.match(result.stderr, /data/);
    assert.equal(statSync(join(dir, 'data')).isFile(), true);
  });
});
