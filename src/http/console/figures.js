/** What happens now: the tiles, the level of the log and what was not taken. */

const element = (id) => document.getElementById(id);
const whole = new Intl.NumberFormat('en', { maximumFractionDigits: 0 });
const fine = new Intl.NumberFormat('en', { maximumFractionDigits: 2 });
const compact = new Intl.NumberFormat('en', { notation: 'compact', maximumFractionDigits: 1 });

const number = (value) => (value >= 1e6 ? compact.format(value) : whole.format(value));
const rate = (value) => (value < 10 ? fine.format(value) : number(value));

/** `1 reading`, `2 readings`. */
export const counted = (count, one, several = `${one}s`) =>
  `${number(count)} ${count === 1 ? one : several}`;

function bytes(value) {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  const power = value < 1 ? 0 : Math.min(4, Math.floor(Math.log2(value) / 10));
  return `${fine.format(value / 2 ** (10 * power))} ${units[power]}`;
}

/** ms → `3 d 4 h`, `5 min 10 s`. */
export function span(ms) {
  const seconds = Math.max(0, Math.floor(ms / 1_000));
  const parts = [
    [Math.floor(seconds / 86_400), 'd'],
    [Math.floor(seconds / 3_600) % 24, 'h'],
    [Math.floor(seconds / 60) % 60, 'min'],
    [seconds % 60, 's'],
  ];
  const first = parts.findIndex(([value]) => value > 0);
  const shown = parts.slice(first === -1 ? 3 : first, (first === -1 ? 3 : first) + 2);
  return shown.map(([value, unit]) => `${value} ${unit}`).join(' ');
}

const sum = (counts) => Object.values(counts).reduce((total, value) => total + value, 0);

export function showStatus(status) {
  const { log } = status;
  const state = element('state');
  state.textContent = log.full
    ? 'log full'
    : status.ready
      ? 'ready'
      : status.readyReason || 'not ready';
  state.className = `pill ${status.ready && !log.full ? 'good' : 'bad'}`;
  element('about').textContent = `${status.version}, up ${span(Date.now() - status.startedAt)}`;
  element('messages').textContent = rate(status.messagesPerSecond);
  element('readings').textContent = rate(status.readingsPerSecond);
  element('connections').textContent = number(status.connections);
  const { online = 0, offline = 0 } = status.rollup.presence ?? {};
  element('offline').textContent = number(offline);
  element('watched').textContent = `of ${counted(online + offline, 'device')}`;
  element('backlog').textContent = number(status.rollup.lagRecords);
  element('commit').textContent = fine.format(log.commitMsMean);
  element('refused').textContent = number(sum(status.deadLettersByCode) + sum(status.shedByReason));
  showBackfill(status);
  const share = log.diskBytesMax > 0 ? log.diskBytes / log.diskBytesMax : 0;
  const text = `${bytes(log.diskBytes)} of ${bytes(log.diskBytesMax)}${log.full ? ', full: devices wait' : ''}`;
  element('disk').value = share;
  element('disk').textContent = text;
  element('disk-text').textContent = text;
  showCodes(status);
}

/** How devices that came back with days of readings get on; nothing when there are none. */
function showBackfill({ rollup, backfill }) {
  const { held = 0 } = backfill ?? {};
  const { lagRecords = 0, perSecond = 0, ts } = rollup.backfill ?? {};
  element('backfill').hidden = lagRecords === 0 && held === 0;
  const at = ts === undefined ? '' : `, now at ${new Date(ts).toISOString()}`;
  const waiting = counted(held, 'connection waits', 'connections wait');
  element('backfill').textContent =
    `Backfill: ${counted(lagRecords, 'old reading')} to process, ${rate(perSecond)} /s${at}; ${waiting} for a turn.`;
}

function showCodes({ deadLettersByCode, shedByReason }) {
  const rows = [
    ...Object.entries(deadLettersByCode).map(([code, count]) => [code, 'refused', count]),
    ...Object.entries(shedByReason).map(([code, count]) => [code, 'shed', count]),
  ].sort((a, b) => b[2] - a[2]);
  const lines = rows.map(([code, kind, count]) => {
    const line = document.createElement('tr');
    for (const text of [code, kind, whole.format(count)]) {
      const cell = document.createElement('td');
      cell.textContent = text;
      line.append(cell);
    }
    line.lastElementChild.className = 'number';
    return line;
  });
  element('codes').replaceChildren(...lines);
  element('codes-empty').hidden = rows.length > 0;
}

/** Shows what is wrong, or that nothing is any more. */
export function showProblem(source, message) {
  const box = element('problem');
  if (message === '' && box.dataset.source !== source) return;
  box.dataset.source = source;
  box.textContent = message;
  box.hidden = message === '';
  if (message !== '' && source === 'status') {
    element('state').textContent = 'no answer';
    element('state').className = 'pill bad';
  }
}
