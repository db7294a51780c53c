/** How loaded the gateway is: its level with cause, what it was before, and which devices are held back. */

import { span } from './figures.js';

const element = (id) => document.getElementById(id);
const fine = new Intl.NumberFormat('en', { maximumFractionDigits: 2 });
const time = new Intl.DateTimeFormat('en-GB', {
  dateStyle: 'short',
  timeStyle: 'medium',
});

/** What each level means, for people. */
const MEANING = {
  normal: 'everything is taken',
  brake: 'devices are slowed down, nothing is lost',
  shed: 'QoS 0 is dropped',
  refuse: 'new connections are refused',
};
const CAUSES = {
  loopDelay: ['delay of the event loop', 'ms'],
  commit: ['duration of a commit', 'ms'],
  wait: ['waiting messages', 'ms'],
  demand: ['more comes than can be taken', '%'],
  lag: ['rollups are late', 'ms'],
  backlog: ['backlog on disk', '%'],
  memory: ['memory', '%'],
  sockets: ['connections', '%'],
};

function reason(cause, value) {
  const [name, unit] = CAUSES[cause] ?? [cause, ''];
  return `${name} (${fine.format(unit === '%' ? value * 100 : value)} ${unit})`;
}

function row(...texts) {
  const line = document.createElement('tr');
  for (const text of texts) {
    const cell = document.createElement('td');
    cell.textContent = text;
    line.append(cell);
  }
  return line;
}

export function showOverload({ level, since, cause, signals, history, limited }) {
  const pill = element('overload-level');
  pill.textContent = level;
  pill.className = `pill ${level === 'normal' ? 'good' : 'bad'}`;
  const why = cause === '' ? '' : `: ${reason(cause, signals[cause]?.value ?? 0)}`;
  const text = `${MEANING[level] ?? ''}${why}, for ${span(Date.now() - since)}`;
  element('overload-text').textContent = text;
  element('overload-section').hidden = history.length === 0 && limited.length === 0;
  element('overload-history').replaceChildren(
    ...history.map((change) =>
      row(
        time.format(change.at),
        `${change.from} → ${change.to}`,
        reason(change.cause, change.value),
      ),
    ),
  );
  element('overload-limited').replaceChildren(
    ...limited.map(({ tenant, device, code, expected, at, count }) =>
      row(`${tenant}/${device}`, code, expected, String(count), time.format(at)),
    ),
  );
  element('overload-limited-empty').hidden = limited.length > 0;
}
