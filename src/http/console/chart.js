/** The chart: mean of a metric with the band from min to max, one point for each bucket. */

import { counted } from './figures.js';
import uPlot from './uplot.js';

const HEIGHT = 280;
const element = (id) => document.getElementById(id);
const digits = new Intl.NumberFormat('en', { maximumSignificantDigits: 5 });
const hours = new Intl.DateTimeFormat(undefined, {
  hour: '2-digit',
  minute: '2-digit',
  hourCycle: 'h23',
});
const days = new Intl.DateTimeFormat(undefined, { day: 'numeric', month: 'short' });
const clock = new Intl.DateTimeFormat(undefined, {
  dateStyle: 'short',
  timeStyle: 'medium',
  hourCycle: 'h23',
});
const dark = window.matchMedia('(prefers-color-scheme: dark)');

let plot;
let shown = '';

function colour(name) {
  // A canvas does not know light-dark(); a computed colour does.
  const probe = document.createElement('span');
  probe.style.color = `var(${name})`;
  document.body.append(probe);
  const value = getComputedStyle(probe).color;
  probe.remove();
  return value;
}

/** Labels of the time axis: hours, and the day where one begins. */
function timeLabels(_, splits, _axis, _space, step) {
  return splits.map((seconds) => {
    const at = new Date(seconds * 1_000);
    const midnight = at.getHours() === 0 && at.getMinutes() === 0;
    return step >= 86_400 || midnight ? days.format(at) : hours.format(at);
  });
}

function build(unit, data) {
  const accent = colour('--accent');
  const faint = accent.replace('rgb(', 'rgba(').replace(')', ', 0.16)');
  const edge = accent.replace('rgb(', 'rgba(').replace(')', ', 0.4)');
  const axis = {
    stroke: colour('--quiet'),
    grid: { stroke: colour('--line'), width: 1 },
    ticks: { show: false },
  };
  const value = (_, number) => (number == null ? '–' : `${digits.format(number)} ${unit}`.trim());
  const options = {
    width: element('chart').clientWidth,
    height: HEIGHT,
    cursor: { y: false },
    series: [
      { value: (_, at) => (at == null ? '–' : clock.format(at * 1_000)) },
      { label: 'max', stroke: edge, width: 1, points: { show: false }, value },
      { label: 'mean', stroke: accent, width: 2, points: { size: 4 }, value },
      { label: 'min', stroke: edge, width: 1, points: { show: false }, value },
    ],
    bands: [{ series: [1, 3], fill: faint }],
    axes: [
      { ...axis, values: timeLabels, size: 34 },
      { ...axis, label: unit, labelSize: unit === '' ? 0 : 22, size: 64 },
    ],
  };
  plot?.destroy();
  plot = new uPlot(options, data, element('chart'));
}

/**
 * @param {{rows: any[], series: any[], step: string}} report with mean, min, max, count and last
 * @returns {boolean} false when there is no number to show
 */
export function showChart(report, title) {
  const rows = report.rows.filter(({ timeMs }) => timeMs <= Date.now());
  const newest = rows.findLast((row) => row.count !== null);
  const number = rows.findLast((row) => typeof row.mean === 'number');
  if (number === undefined) {
    clearChart(
      newest === undefined
        ? `${title}: nothing in this range; choose a longer one.`
        : `${title} is a text. Newest: ${newest.last}, at ${clock.format(newest.timeMs)}.`,
    );
    return false;
  }
  const column = (name) => rows.map((row) => (typeof row[name] === 'number' ? row[name] : null));
  const times = rows.map(({ timeMs }) => timeMs / 1_000);
  const data = [times, column('max'), column('mean'), column('min')];
  const unit = report.series[0]?.unit ?? '';
  const key = `${title} ${unit} ${dark.matches}`;
  if (plot === undefined || key !== shown) build(unit, data);
  else plot.setData(data);
  shown = key;
  const [mean, min, max] = [number.mean, number.min, number.max].map((value) =>
    digits.format(value),
  );
  element('chart-summary').textContent =
    `${title}, one point for ${report.step}. Newest: mean ${mean}, min ${min}, max ${max} ${unit} ` +
    `(${counted(number.count, 'reading')}) at ${clock.format(number.timeMs)}.`;
  return true;
}

export function clearChart(message) {
  plot?.destroy();
  plot = undefined;
  element('chart-summary').textContent = message;
}

window.addEventListener('resize', () => {
  plot?.setSize({ width: element('chart').clientWidth, height: HEIGHT });
});
