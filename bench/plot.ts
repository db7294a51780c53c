/** Lines over time as an SVG that stands alone; panels share the time axis. */
export interface Series {
  name: string;
  /** Seconds and value; NaN breaks the line. */
  points: readonly (readonly [seconds: number, value: number])[];
  /** A value holds until the next one. */
  steps?: boolean;
}

export interface Panel {
  title: string;
  series: readonly Series[];
  /** Top of the axis; else by the largest value. */
  max?: number;
  /** Names in place of numbers, from 0 on. */
  names?: readonly string[];
}

export interface Plot {
  title: string;
  panels: readonly Panel[];
  /** Moments that are named: a line through all panels. */
  marks?: readonly { seconds: number; name: string }[];
  from: number;
  to: number;
}

const WIDTH = 760;
const LEFT = 74;
const RIGHT = 16;
const TOP = 54;
const PANEL = 130;
const GAP = 44;
/** Told apart by colour-blind eyes too (Okabe and Ito). */
const COLOURS = ['#0072b2', '#d55e00', '#009e73', '#cc79a7', '#e69f00', '#56b4e9'];
const TIME_STEPS = [1, 2, 5, 10, 20, 30, 60, 120];

export function svgOf(plot: Plot): string {
  const { panels, marks = [], from, to } = plot;
  const height = TOP + panels.length * (PANEL + GAP) + 6;
  const x = (seconds: number) => LEFT + ((seconds - from) / (to - from)) * (WIDTH - LEFT - RIGHT);
  const out = [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${height}" font-family="sans-serif" font-size="12" fill="#222">`,
    `<rect width="${WIDTH}" height="${height}" fill="#fff"/>`,
    `<text x="${LEFT}" y="20" font-size="15" font-weight="bold">${escapeXml(plot.title)}</text>`,
  ];
  for (const [index, panel] of panels.entries()) {
    out.push(...panelOf(panel, TOP + index * (PANEL + GAP), { x, from, to }));
  }
  const bottom = TOP + panels.length * (PANEL + GAP) - GAP;
  for (const { seconds, name } of marks) {
    const at = x(seconds).toFixed(1);
    out.push(
      `<line x1="${at}" x2="${at}" y1="${TOP}" y2="${bottom}" stroke="#555" stroke-dasharray="4 3"/>`,
      `<text x="${at}" y="38" text-anchor="middle" fill="#555">${escapeXml(name)}</text>`,
    );
  }
  return `${[...out, '</svg>'].join('\n')}\n`;
}

interface Axis {
  x: (seconds: number) => number;
  from: number;
  to: number;
}

function panelOf({ title, series, max, names }: Panel, top: number, axis: Axis): string[] {
  const { x, from, to } = axis;
  const bottom = top + PANEL;
  const values = series.flatMap(({ points }) => points.map(([, value]) => value));
  const step = niceStep((max ?? Math.max(...values.filter(Number.isFinite), 1e-9)) / 4);
  const ceiling =
    names === undefined
      ? Math.ceil((max ?? Math.max(...values.filter(Number.isFinite), step)) / step) * step
      : names.length - 1;
  const y = (value: number) => bottom - (Math.min(value, ceiling) / ceiling) * PANEL;
  const out: string[] = [];
  const ticks = names?.map((name, value) => [value, name] as const) ?? numbers(ceiling, step);
  for (const [value, name] of ticks) {
    const at = y(value).toFixed(1);
    out.push(
      `<line x1="${LEFT}" x2="${WIDTH - RIGHT}" y1="${at}" y2="${at}" stroke="#ddd"/>`,
      `<text x="${LEFT - 6}" y="${at}" dy="4" text-anchor="end">${escapeXml(name)}</text>`,
    );
  }
  const every = TIME_STEPS.find((one) => (to - from) / one <= 14) ?? 300;
  for (let at = Math.ceil(from / every) * every; at <= to; at += every) {
    out.push(
      `<line x1="${x(at).toFixed(1)}" x2="${x(at).toFixed(1)}" y1="${bottom}" y2="${bottom + 4}" stroke="#555"/>`,
      `<text x="${x(at).toFixed(1)}" y="${bottom + 16}" text-anchor="middle">${at} s</text>`,
    );
  }
  let legend = LEFT;
  out.push(`<text x="${legend}" y="${top - 6}" font-weight="bold">${escapeXml(title)}</text>`);
  legend += title.length * 7 + 16;
  for (const [index, one] of series.entries()) {
    const colour = COLOURS[index % COLOURS.length];
    out.push(
      `<path d="${pathOf(one, x, y, from, to)}" fill="none" stroke="${colour}" stroke-width="1.6"/>`,
    );
    if (series.length === 1 && one.name === '') continue;
    out.push(`<text x="${legend}" y="${top - 6}" fill="${colour}">${escapeXml(one.name)}</text>`);
    legend += one.name.length * 6.5 + 14;
  }
  return out;
}

function pathOf(
  { points, steps = false }: Series,
  x: (seconds: number) => number,
  y: (value: number) => number,
  from: number,
  to: number,
): string {
  const parts: string[] = [];
  let last: string | undefined;
  for (const [seconds, value] of points) {
    if (seconds < from || seconds > to || !Number.isFinite(value)) {
      if (!Number.isFinite(value)) last = undefined;
      continue;
    }
    const [px, py] = [x(seconds).toFixed(1), y(value).toFixed(1)];
    if (last === undefined) parts.push(`M${px} ${py}`);
    else parts.push(steps ? `L${px} ${last}L${px} ${py}` : `L${px} ${py}`);
    last = py;
  }
  return parts.join('');
}

function niceStep(rough: number): number {
  const power = 10 ** Math.floor(Math.log10(rough));
  return ([1, 2, 5].find((one) => one * power >= rough) ?? 10) * power;
}

function numbers(ceiling: number, step: number): [value: number, name: string][] {
  const ticks: [number, string][] = [];
  for (let value = 0; value <= ceiling * 1.001; value += step)
    ticks.push([value, Number(value.toPrecision(6)).toLocaleString('en')]);
  return ticks;
}

function escapeXml(text: string): string {
  return text.replace(/[&<>]/g, (one) => ({ '&': '&amp;', '<': '&lt;', '>': '&gt;' })[one] ?? one);
}
