/**
 * Appends messages of three large readings without end, from the number that is given, 200 under way at once,
 * and prints the numbers of a commit when they are durable: `node appending-child.ts <dir> <first>`.
 */
import { EmbeddedAppender } from '../../src/log/embedded/appender.ts';
import { messageOf } from '../suites/log.ts';
import { OPTIONS } from './embedded-log.ts';

const UNDER_WAY = 200;
const text = 'x'.repeat(1_000);
const [dir = '', first = '0'] = process.argv.slice(2);
let durable = '';
// To a pipe this is written at once.
const onCommit = () => {
  process.stdout.write(durable);
  durable = '';
};
const appender = await EmbeddedAppender.open(
  { dir, ...OPTIONS, compression: 'none' },
  { onCommit },
);
let next = Number(first);

function append(): void {
  const number = next++;
  appender.append(messageOf('d1', number * 3, 3, { text }), (error) => {
    if (error !== null) throw error;
    durable += `${number}\n`;
    append();
  });
}
for (let i = 0; i < UNDER_WAY; i++) append();
