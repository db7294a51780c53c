/** The table of processes, where there are several. */

import { span } from './figures.js';

const element = (id) => document.getElementById(id);
const whole = new Intl.NumberFormat('en', { maximumFractionDigits: 0 });

function cell(text, className = '') {
  const made = document.createElement('td');
  made.textContent = text;
  made.className = className;
  return made;
}

export function showProcesses(processes) {
  element('processes-section').hidden = processes.length === 0;
  const rows = processes.map((one) => {
    const line = document.createElement('tr');
    line.append(
      cell(one.host),
      cell(one.roles.join(', ')),
      cell(
        one.ready ? (one.level === 'normal' ? 'ready' : one.level) : one.readyReason || 'not ready',
      ),
      cell(one.version),
      cell(span(Date.now() - one.startedAt)),
      ...[one.connections, one.readingsPerSecond, one.waitingRecords, one.lagRecords].map((value) =>
        cell(whole.format(value), 'number'),
      ),
    );
    return line;
  });
  element('processes').replaceChildren(...rows);
}
