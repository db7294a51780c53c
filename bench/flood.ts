/**
 * `npm run bench:flood`: what docs/overload.md says happens under floods. Ratios come from one run on one
 * machine. `-- --json FILE` writes the figures, `--plots DIR` the plots, `--only a,b` runs some parts,
 * `--seconds 20` makes the floods shorter.
 */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { CpuCap } from './cpu-cap.ts';
import { benchDominoes, type DominoFigures } from './flood-dominoes.ts';
import { benchHerd } from './flood-herd.ts';
import { benchNeighbour, type NeighbourFigures } from './flood-neighbour.ts';
import { benchOverload } from './flood-overload.ts';
import { benchOptions, JSON_FILE } from './options.ts';
import { type Plot, svgOf } from './plot.ts';

const values = benchOptions('bench:flood', {
  json: JSON_FILE,
  plots: ['', 'write plots over time as SVG to this folder'],
  only: ['overload,neighbour,herd,dominoes', 'parts'],
  seconds: ['60', 'of the floods'],
});
const figures: Record<string, unknown> = { node: process.version, at: new Date().toISOString() };
const seconds = Number(values.seconds);

const PARTS: Readonly<Record<string, () => Promise<void>>> = {
  overload: overloaded,
  neighbour: beside,
  herd: herded,
  dominoes: behindBalancer,
};
for (const name of values.only.split(',')) {
  const part = PARTS[name];
  if (part === undefined) throw new Error(`there is no part ${name}`);
  await part();
  // After each, so that a part that fails takes none of the others along.
  if (values.json !== '') writeFileSync(values.json, `${JSON.stringify(figures, null, 2)}\n`);
}

async function overloaded(): Promise<void> {
  const { figures: overload, plot } = await benchOverload({ seconds });
  draw('flood-overload', plot);
  const { goodputRatio, memoryRatio, adminP99Ms, recoverySeconds } = overload;
  Object.assign(figures, { overload, goodputRatio, memoryRatio, adminP99Ms, recoverySeconds });
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
    'rollups',
    `${(overload.processedRatio * 100).toFixed(0)} % of the goodput meanwhile, at most ${overload.lagMaxSeconds.toFixed(1)} s late`,
  );
  line(
    'memory',
    `${overload.memoryMaxMiB.toFixed(0)} MiB, ${memoryRatio.toFixed(2)} times that at capacity`,
  );
  line('admin requests, p99', `${adminP99Ms.toFixed(0)} ms of ${overload.adminRequests}`);
  line('normal again', `${recoverySeconds.toFixed(1)} s after the flood`);
}

async function beside(): Promise<void> {
  const limited = await benchNeighbour({ seconds: seconds / 2, quotas: true });
  draw('flood-neighbour', limited.plot);
  const neighbour = limited.figures;
  Object.assign(figures, { neighbour, neighbourRateRatio: neighbour.rateRatio });
  neighbourLines('a neighbour at ten times its quota', neighbour);
  const unlimited = await benchNeighbour({ seconds: seconds / 2, quotas: false });
  draw('flood-neighbour-without-quotas', unlimited.plot);
  figures.neighbourWithoutQuotas = unlimited.figures;
  neighbourLines('the same without quotas', unlimited.figures);
}

async function herded(): Promise<void> {
  const { figures: herd, plot } = await benchHerd({ seconds: seconds / 2 });
  draw('flood-herd', plot);
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

async function behindBalancer(): Promise<void> {
  if (!CpuCap.isPossible) {
    line('dominoes', 'left out: control groups for CPU need root');
    return;
  }
  const guarded = await benchDominoes({ protection: true });
  draw('flood-dominoes', guarded.plot);
  figures.dominoes = guarded.figures;
  dominoLines('three gateways, one is killed', guarded.figures);
  const unguarded = await benchDominoes({ protection: false });
  draw('flood-dominoes-without-protection', unguarded.plot);
  figures.dominoesWithoutProtection = unguarded.figures;
  dominoLines('the same without protection', unguarded.figures);
}

function draw(name: string, plot: Plot): void {
  if (values.plots !== '') writeFileSync(join(values.plots, `${name}.svg`), svgOf(plot));
}

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

function dominoLines(name: string, dominoes: DominoFigures): void {
  line(name, `${dominoes.fallen} of the two others fell, ${dominoes.ended} ended`);
  line('  how often the balancer took them out', String(dominoes.removals));
  line('  offered', `${dominoes.offered} readings/s, 90 % of ${dominoes.capacity}`);
  line('  three took', `${percent(dominoes.goodputOfThree)} of that`);
  line(
    '  two took',
    `${percent(dominoes.goodputOfTwo)} of what two can, ${percent(dominoes.worstOfTwo)} in the worst second`,
  );
  line('  balanced again', `${dominoes.balancedSeconds.toFixed(0)} s after the third was started`);
  line('  admin requests of the two, p99', `${dominoes.adminP99Ms.toFixed(0)} ms`);
}

function percent(ratio: number): string {
  return `${(ratio * 100).toFixed(1)} %`;
}
