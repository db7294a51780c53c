import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Command, InvalidArgumentError } from 'commander';
import {
  deviceArgument,
  durationArgument,
  letterArgument,
  nameArgument,
  numberArgument,
  repeated,
  rolesArgument,
  sayHow,
  serverArgument,
  typeVersionArgument,
} from '../../src/cli/arguments.ts';
import { counted } from '../../src/core/counted.ts';

const PARSERS: [(text: string) => unknown, good: [string, unknown][], bad: string[]][] = [
  [nameArgument, [['acme', 'acme']], ['', 'a b', 'a/b', 'x'.repeat(65)]],
  [
    deviceArgument,
    [['acme/d-1', { tenant: 'acme', device: 'd-1' }]],
    ['', 'acme', 'acme/', '/d', 'a/b/c'],
  ],
  [
    numberArgument(10),
    [
      ['1', 1],
      ['10', 10],
    ],
    ['', '0', '11', '-1', '1.5', '1e1', 'x'],
  ],
  [durationArgument, [['90m', 5_400_000]], ['', '90', 'x', '-1h']],
  [
    serverArgument,
    [
      ['http://h:80/', 'http://h'],
      ['https://[::1]:8443', 'https://[::1]:8443'],
    ],
    ['', 'h:8080', 'localhost', 'http://', 'http://h/api', 'ftp://h'],
  ],
  [rolesArgument, [['http,rollup', 'http,rollup']], ['', 'http, rollup', 'broker']],
  [letterArgument, [['1767225600123-0-4711', '1767225600123-0-4711']], ['', '4711']],
  [
    typeVersionArgument,
    [
      ['', ''],
      ['0123abcd', '0123abcd'],
    ],
    ['0123ABCD', 'v1'],
  ],
];

test('arguments are what they should be, or the error says what they should be', () => {
  for (const [parse, good, bad] of PARSERS) {
    for (const [text, expected] of good) assert.deepEqual(parse(text), expected);
    for (const text of bad) {
      assert.throws(
        () => parse(text),
        (error) => error instanceof InvalidArgumentError && /^Expected .+\.$/.test(error.message),
        `${parse.name} ${text}`,
      );
    }
  }
  assert.deepEqual(repeated(nameArgument)('b', ['a']), ['a', 'b']);
});

test('an error of arguments has its code and names the command whose help tells more', () => {
  const program = new Command('spillway').exitOverride();
  const said: string[] = [];
  program.configureOutput({ writeErr: (text) => said.push(text) });
  program.command('token').command('add').requiredOption('--count <n>', '', numberArgument(3));
  sayHow(program);
  assert.throws(() => program.parse(['token', 'add', '--count', '4'], { from: 'user' }));
  assert.equal(
    said.join(''),
    "ARGUMENT_INVALID: option '--count <n>' argument '4' is invalid. Expected a whole number from 1 to 3.\n" +
      'See `spillway token add --help`.\n',
  );
});

test('one is one', () => {
  assert.equal(counted(0, 'reading'), '0 readings');
  assert.equal(counted(1, 'reading'), '1 reading');
  assert.equal(counted(2, 'record waits', 'records wait'), '2 records wait');
});
