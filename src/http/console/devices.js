/** The table of devices. */

import { span } from './figures.js';

const ROWS_MAX = 500;
const element = (id) => document.getElementById(id);

let devices = [];
let choose = () => {};

function cell(...content) {
  const made = document.createElement('td');
  made.append(...content);
  return made;
}

function seen(at) {
  const made = document.createElement('time');
  made.dateTime = new Date(at).toISOString();
  made.title = made.dateTime;
  made.textContent = at > Date.now() ? 'ahead of this clock' : `${span(Date.now() - at)} ago`;
  return made;
}

/** An unknown status has no words: nothing was ever heard, or the device is not registered. */
function status(entry) {
  if (entry.status === null) return '–';
  const made = document.createElement('span');
  made.className = `pill ${entry.status === 'online' ? 'good' : 'bad'}`;
  made.textContent = entry.status;
  if (entry.since !== null) made.title = `since ${entry.since}`;
  return made;
}

function row(entry) {
  const line = document.createElement('tr');
  const link = document.createElement('button');
  link.type = 'button';
  link.className = 'link';
  link.textContent = entry.device;
  link.title = 'Show in the chart';
  link.addEventListener('click', () => choose(entry));
  const metrics = entry.metrics.slice(0, 6).join(', ') + (entry.metrics.length > 6 ? ', …' : '');
  line.append(
    cell(entry.tenant),
    cell(entry.metrics.length > 0 ? link : entry.device),
    cell(entry.type ?? '–'),
    cell(metrics),
    cell(entry.lastSeenMs === null ? 'none yet' : seen(entry.lastSeenMs)),
    cell(status(entry)),
  );
  return line;
}

function show() {
  const words = element('filter').value.toLowerCase().split(/\s+/).filter(Boolean);
  const wanted = element('device-status').value;
  const found = devices.filter(({ tenant, device, type, status }) => {
    if (wanted !== '' && status !== wanted) return false;
    const text = `${tenant} ${device} ${type ?? ''}`.toLowerCase();
    return words.every((word) => text.includes(word));
  });
  const body = element('devices');
  // A row that is replaced would lose the focus of its button.
  if (!body.contains(document.activeElement)) {
    body.replaceChildren(...found.slice(0, ROWS_MAX).map(row));
  }
  const cut = found.length > ROWS_MAX ? `, the first ${ROWS_MAX} shown` : '';
  element('devices-count').textContent = `${found.length} of ${devices.length}${cut}`;
}

/** @param {(entry: {tenant: string, device: string}) => void} onChoose */
export function startDevices(onChoose) {
  choose = onChoose;
  element('filter').addEventListener('input', show);
  element('device-status').addEventListener('change', show);
}

export function showDevices(list) {
  devices = list;
  show();
  const none = list.every(({ lastSeenMs }) => lastSeenMs === null);
  element('devices-empty').hidden = !none;
}
