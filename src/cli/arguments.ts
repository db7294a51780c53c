import { type Command, InvalidArgumentError, Option } from 'commander';
import { ROLES } from '../config/schema.ts';
import { isName } from '../core/names.ts';
import { parseDuration } from '../core/units.ts';
import { parseLetterId } from '../ops/letters/letter.ts';

/** Arguments and options as the command line takes them. All parsers throw InvalidArgumentError. */

const NAME = 'a name: 1 to 64 of A-Z a-z 0-9 _ -';

function expected(what: string): InvalidArgumentError {
  return new InvalidArgumentError(`Expected ${what}.`);
}

export function nameArgument(text: string): string {
  if (!isName(text)) throw expected(NAME);
  return text;
}

/** `<tenant>/<device>` */
export function deviceArgument(text: string): { tenant: string; device: string } {
  const [tenant = '', device = '', ...rest] = text.split('/');
  if (!isName(tenant) || !isName(device) || rest.length > 0) {
    throw expected('<tenant>/<device>, such as acme/thermostat-01');
  }
  return { tenant, device };
}

/** A whole number from 1 to `max`. */
export function numberArgument(max: number): (text: string) => number {
  return (text) => {
    const number = /^\d{1,15}$/.test(text) ? Number(text) : 0;
    if (number < 1 || number > max) throw expected(`a whole number from 1 to ${max}`);
    return number;
  };
}

/** ms */
export function durationArgument(text: string): number {
  const ms = parseDuration(text);
  if (ms === undefined) throw expected('a duration such as 90m, 24h or 7d');
  return ms;
}

/** `http://127.0.0.1:8080`, without what stands behind the port. */
export function serverArgument(text: string): string {
  const url = /^https?:\/\//.test(text) && URL.canParse(text) ? new URL(text) : undefined;
  if (url === undefined || url.pathname !== '/') {
    throw expected('an address such as http://127.0.0.1:8080');
  }
  return url.origin;
}

/** Some of the roles, with commas. */
export function rolesArgument(text: string): string {
  const known: readonly string[] = ROLES;
  if (!text.split(',').every((role) => known.includes(role))) {
    throw expected(`some of ${ROLES.join(',')} with commas between them`);
  }
  return text;
}

export function letterArgument(text: string): string {
  if (parseLetterId(text) === undefined) {
    throw expected('the id of a letter, as `spillway dead-letters list` shows it');
  }
  return text;
}

export function typeVersionArgument(text: string): string {
  if (!/^([0-9a-f]{8})?$/.test(text)) {
    throw expected('8 hex digits, or nothing ("") for letters without a version');
  }
  return text;
}

/** For options that may be repeated. */
export function repeated(
  parse: (text: string) => string,
): (text: string, known: string[]) => string[] {
  return (text, known) => [...known, parse(text)];
}

/** `--tenant`, required. */
export function tenantOption(): Option {
  return new Option('--tenant <name>', 'the customer')
    .argParser(nameArgument)
    .makeOptionMandatory();
}

/**
 * What is wrong with arguments is said with the code ARGUMENT_INVALID and with the command whose `--help`
 * shows what it takes. To be called when all commands are there.
 */
export function sayHow(command: Command, path = command.name()): void {
  command.configureOutput({
    outputError: (text, write) => write(text.replace(/^error: /, 'ARGUMENT_INVALID: ')),
  });
  command.showHelpAfterError(`See \`${path} --help\`.`);
  for (const inner of command.commands) sayHow(inner, `${path} ${inner.name()}`);
}
