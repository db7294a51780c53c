/** The console: asks the API from time to time and shows what it says. Text only goes in as text. */

import { ApiError, get, repeat } from './api.js';
import { clearChart, showChart } from './chart.js';
import { showDevices, startDevices } from './devices.js';
import { showProblem, showStatus } from './figures.js';
import { showLetters, startLetters } from './letters.js';
import { showOverload } from './overload.js';
import { showProcesses } from './processes.js';
import { askForToken, startSignIn } from './sign-in.js';

const STATUS_MS = 1_000;
const DEVICES_MS = 10_000;
const CHART_MS = 5_000;
const LETTERS_MS = 10_000;

const element = (id) => document.getElementById(id);
const selects = { tenant: element('tenant'), device: element('device'), metric: element('metric') };
let devices = [];
/** Until somebody chooses a metric, texts are passed over. */
let chosen = false;

function guarded(source, work) {
  return async () => {
    try {
      await work();
      showProblem(source, '');
    } catch (error) {
      if (error instanceof ApiError && error.status === 401) askForToken();
      showProblem(source, error instanceof Error ? error.message : String(error));
    }
  };
}

/** Fills a select and keeps what was chosen, if it is still there. */
function fill(select, values) {
  const before = select.value;
  const now = [...select.options].map(({ value }) => value);
  if (now.length !== values.length || now.some((value, i) => value !== values[i])) {
    select.replaceChildren(...values.map((value) => new Option(value, value)));
    if (values.includes(before)) select.value = before;
  }
  select.disabled = values.length === 0;
}

function fillSelects() {
  const withData = devices.filter(({ metrics }) => metrics.length > 0);
  fill(selects.tenant, [...new Set(withData.map(({ tenant }) => tenant))]);
  const ofTenant = withData.filter(({ tenant }) => tenant === selects.tenant.value);
  fill(
    selects.device,
    ofTenant.map(({ device }) => device),
  );
  const chosen = ofTenant.find(({ device }) => device === selects.device.value);
  fill(selects.metric, chosen?.metrics ?? []);
}

/** Those without data too: what was refused may be all that there is. */
function fillLetterTenants() {
  const select = element('letters-tenant');
  const before = select.value;
  fill(select, [...new Set(devices.map(({ tenant }) => tenant))]);
  if (select.value !== before) drawLetters();
}

/** Chooses the next metric; false when there is none. */
function nextMetric() {
  const { metric } = selects;
  if (metric.selectedIndex >= metric.options.length - 1) return false;
  metric.selectedIndex += 1;
  return true;
}

repeat(
  guarded('status', async () => {
    const status = await get('status').catch((error) => {
      if (error instanceof ApiError && error.status === 403) return undefined;
      throw error;
    });
    // A tenant sees its data alone.
    element('now-section').hidden = status === undefined;
    element('state').hidden = status === undefined;
    if (status === undefined) {
      element('overload-section').hidden = true;
      return;
    }
    showStatus(status);
    showOverload(status.overload);
    showProcesses(status.processes ?? []);
  }),
  STATUS_MS,
);

const drawChart = repeat(
  guarded('chart', async () => {
    const [tenant, device, metric] = Object.values(selects).map(({ value }) => value);
    if (metric === '') {
      clearChart('The chart begins with the first reading.');
      return;
    }
    const parameters = { tenant, device, metric, from: `-${element('range').value}` };
    const report = await get('query', { ...parameters, stat: 'mean,min,max,count,last' });
    const numbers = showChart(report, `${tenant} / ${device} / ${metric}`);
    if (!numbers && !chosen && nextMetric()) drawChart();
  }),
  CHART_MS,
);

const drawLetters = repeat(
  guarded('letters', () =>
    showLetters((error) => {
      showProblem('letters', error instanceof Error ? error.message : String(error));
    }),
  ),
  LETTERS_MS,
);

repeat(
  guarded('devices', async () => {
    devices = (await get('devices')).devices;
    showDevices(devices);
    const before = selects.metric.value;
    fillSelects();
    fillLetterTenants();
    if (selects.metric.value !== before) drawChart();
  }),
  DEVICES_MS,
);

for (const select of [...Object.values(selects), element('range')]) {
  select.addEventListener('change', () => {
    if (select === selects.metric) chosen = true;
    fillSelects();
    drawChart();
  });
}

startDevices(({ tenant, device }) => {
  selects.tenant.value = tenant;
  fillSelects();
  selects.device.value = device;
  fillSelects();
  drawChart();
  element('chart-title').scrollIntoView({ behavior: 'smooth', block: 'nearest' });
});

startLetters(drawLetters);
startSignIn();
