import { readFileSync } from 'node:fs';
import { SpillwayError } from '../core/errors.ts';

const SECRET_BYTES_MAX = 64 * 1_024;

/** A file that the configuration names: a secret or a certificate. Throws CONFIG_INVALID with the key. */
export function readNamedFile(file: string, key: string): string {
  let text: string;
  try {
    text = readFileSync(file, 'utf8');
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException;
    throw new SpillwayError('CONFIG_INVALID', `${key}: ${file} can't be read (${code})`, { cause });
  }
  if (text.length > SECRET_BYTES_MAX) {
    throw new SpillwayError('CONFIG_INVALID', `${key}: ${file} is larger than 64 KiB`);
  }
  return text;
}

/** The secret itself, or the first line of the file that holds it. Throws CONFIG_INVALID. */
export function secretOf(value: string, file: string, key: string): string {
  if (file === '') return value;
  const [line = ''] = readNamedFile(file, key).split(/\r?\n/);
  if (line.trim() === '') throw new SpillwayError('CONFIG_INVALID', `${key}: ${file} is empty`);
  return line.trim();
}
