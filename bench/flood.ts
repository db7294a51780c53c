/**
 * `npm run bench:flood`: what docs/overload.md says happens under floods. Ratios come from one run on one
 * machine. `-- --json FILE` writes the figures, `--only a,b` runs some parts.
 */
import { writeFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { benchDominoes } from './flood-dominoes.ts';
import { benchHerd } from './flood-herd.ts';
import { benchNeighbour, type NeighbourFigures } from './flood-neighbour.ts';
import { benchOverload } from './flood-overload.ts';
import { svgOf } from './plot.ts';

const { values } = parseArgs({
  options: {
    json: { type: 'string' },
    only: { type: 'string', default: 'overload,neighbour,herd' },
    seconds: { type: 'string', default: '60' },
  },
});
const parts = new Set(values.only.split(','));
const figures: Record<string, unknown> = { node: process.version, at: new Date().toISOString() };
const seconds = Number(values.seconds);

if (parts.has('overload')) {
  const overload = await benchOverload({ seconds });
  figures.overload = overload;
  const { goodputRatio, memoryRatio, adminP99Ms, recoverySeconds } = overload;
  Object.assign(figures, { goodputRatio, memoryRatio, adminP99Ms, recoverySeconds });
  line('capacity', `${overload.capacity} readings/s`);
  line('offered, half of it at QoS 0', `${overload.offered} readings/s for ${seconds} s`);
  line('goodput', `${overload.goodput} readings/s, ${percent(goodputRatio)} of the capacity`);
  line('levels', overload.levels.join(', '));
  line('QoS 0 shed', String(overload.shed));
  line(
    'acknowledged readings that are not in the store',
    `${overload.lost} of ${overload.acknowledged}`,
  );
  line('account of all messages', overload.balanced ? 'balanced' : 'NOT balanced');
  line(
    'memory',
    `${overload.memoryMaxMiB.toFixed(0)} MiB, ${memoryRatio.toFixed(2)} times that at capacity`,
  );
  line('admin requests, p99', `${adminP99Ms.toFixed(0)} ms of ${overload.adminRequests}`);
  line('normal again', `${recoverySeconds.toFixed(1)} s after the flood`);
}
if (parts.has('neighbour')) {
  const neighbour = await benchNeighbour({ seconds: seconds / 2, quotas: true });
  figures.neighbour = neighbour;
  figures.neighbourRateRatio = neighbour.rateRatio;
  neighbourLines('a neighbour at ten times its quota', neighbour);
  const unlimited = await benchNeighbour({ seconds: seconds / 2, quotas: false });
  figures.neighbourWithoutQuotas = unlimited;
  neighbourLines('the same without quotas', unlimited);
}
if (parts.has('herd')) {
  const herd = await benchHerd({ seconds: seconds / 2 });
  figures.herd = herd;
  line(`${herd.clients} clients that reconnect at once`, `back in ${herd.backSeconds} s`);
  line('  refused attempts, lost sessions', `${herd.refused}, ${herd.sessionsLost}`);
  line(
    '  PUBACK p99 of 100 others meanwhile',
    `${herd.meanwhileP99Ms.toFixed(1)} ms, ${herd.p99Ratio.toFixed(2)} times ${herd.quietP99Ms.toFixed(1)} ms`,
  );
  line('  their lost connections', String(herd.calmLost));
  line('  admin requests, p99', `${herd.adminP99Ms.toFixed(0)} ms (${herd.levels.join(', ')})`);
}
if (parts.has('dominoes')) {
  for (const protection of process.env.ONLYP ? [process.env.ONLYP === '1'] : [true, false]) {
    const { figures: dominoes, plot } = await benchDominoes({ protection });
    console.log(JSON.stringify(dominoes));
    writeFileSync(`/tmp/dominoes-${protection}.svg`, svgOf(plot));
  }
}
if (values.json !== undefined) writeFileSync(values.json, `${JSON.stringify(figures, null, 2)}\n`);

function line(what: string, figure: string): void {
  console.log(`${what.padEnd(48)} ${figure}`);
}

function neighbourLines(name: string, neighbour: NeighbourFigures): void {
  const { rateRatio, quietP99Ms, besideP99Ms, p99Ratio } = neighbour;
  line(name, `${neighbour.loudTaken} of ${neighbour.loudOffered} readings/s (${neighbour.level})`);
  line('  rate of the quiet tenant', `${percent(rateRatio)} of what it sent`);
  const ratio = p99Ratio.toFixed(2);
  line(
    '  its PUBACK p99',
    `${besideP99Ms.toFixed(1)} ms, ${ratio} times ${quietP99Ms.toFixed(1)} ms`,
  );
}

function percent(ratio: number): string {
  return `${(ratio * 100).toFixed(1)} %`;
}
