import { parseArgs } from 'node:util';

/** An option's default, '' for none, and what it says. */
type Option = readonly [preset: string, says: string];

/** What stands for an option's value. */
const PLACES: Readonly<Record<string, string>> = { json: 'FILE', plots: 'DIR', only: 'A,B' };

/** A benchmark's options by name, as text. Prints them for `--help`, and what is wrong, and ends then. */
export function benchOptions<Name extends string>(
  script: string,
  options: Readonly<Record<Name, Option>>,
): Record<Name, string> {
  const entries = Object.entries<Option>(options);
  const usage = [
    `npm run ${script} -- [options]`,
    ...entries.map(([name, [preset, says]]) => {
      const left = `  --${name} ${PLACES[name] ?? 'N'}`.padEnd(24);
      return `${left}${says}${preset === '' ? '' : ` (default: ${preset})`}`;
    }),
  ].join('\n');
  const known = Object.fromEntries(
    entries.map(([name, [preset]]) => [name, { type: 'string', default: preset } as const]),
  );
  try {
    const { values } = parseArgs({ options: { ...known, help: { type: 'boolean' } } });
    if (values.help === true) {
      console.log(usage);
      process.exit(0);
    }
    return values as Record<Name, string>;
  } catch (error) {
    console.error(`${(error as Error).message}\n\n${usage}`);
    process.exit(2);
  }
}

export const JSON_FILE: Option = ['', 'write the figures to this file'];
