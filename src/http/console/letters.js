/** Dead letters: in groups, a group's newest with their original bytes, what trying them again would change, and replaying them. */

import { get, post } from './api.js';
import { counted } from './figures.js';

const LETTERS_SHOWN = 20;
const TEXT_MAX = 2_000;
const GROUPS_SHOWN = 200;
const POLL_MS = 500;

const element = (id) => document.getElementById(id);
const whole = new Intl.NumberFormat('en', { maximumFractionDigits: 0 });

let shown;
/** Grows with each choice: an answer that comes after the next one is dropped. */
let turn = 0;

function cell(content, className = '') {
  const made = document.createElement('td');
  made.append(content);
  made.className = className;
  return made;
}

function button(text, title, act) {
  const made = document.createElement('button');
  made.type = 'button';
  made.className = 'link';
  made.textContent = text;
  made.title = title;
  made.addEventListener('click', act);
  return made;
}

/** As the filters of the API name a group. */
function filtersOf(group) {
  return {
    tenant: element('letters-tenant').value,
    ...{ device: group.device, code: group.code, type: group.type, version: group.version },
    from: `-${element('letters-range').value}`,
  };
}

/** Bytes as text, as far as they are text. */
function textOf(payload) {
  const bytes = Uint8Array.from(atob(payload), (one) => one.charCodeAt(0));
  const text = new TextDecoder().decode(bytes);
  return text.length > TEXT_MAX ? `${text.slice(0, TEXT_MAX)}…` : text;
}

function say(text) {
  element('letters-result').textContent = text;
}

/** Runs what a button asks for, with the button off meanwhile. */
async function acting(act) {
  const buttons = [element('letters-try'), element('letters-replay')];
  for (const one of buttons) one.disabled = true;
  try {
    await act();
  } catch (error) {
    say(error instanceof Error ? error.message : String(error));
  } finally {
    for (const one of buttons) one.disabled = false;
  }
}

const codesOf = (counts) =>
  Object.entries(counts)
    .map(([code, count]) => `${code} ${whole.format(count)}`)
    .join(', ');

function tryAgain() {
  return acting(async () => {
    say('Trying…');
    const result = await post('dead-letters/try', filtersOf(shown));
    const refused = codesOf({ ...result.refused, ...result.unreadable });
    say(
      `Of ${counted(result.letters, 'open letter')} ${whole.format(result.taken)} would be taken now` +
        `${refused === '' ? '' : `, not: ${refused}`}. Nothing was written.`,
    );
  });
}

function replay() {
  return acting(async () => {
    let status = await post('dead-letters/replays', { ...filtersOf(shown), state: 'open' });
    while (status.state === 'running') {
      say(`Replaying: ${counted(status.counts.letters, 'letter')} so far…`);
      await new Promise((resolve) => setTimeout(resolve, POLL_MS));
      status = await get(`dead-letters/replays/${status.id}`);
    }
    const { letters, taken } = status.counts;
    const how =
      status.state === 'done' ? 'Replayed' : `The replay ${status.state}: ${status.reason}.`;
    say(`${how} ${counted(letters, 'letter')}: ${counted(taken, 'was', 'were')} taken.`);
  });
}

async function show(group) {
  shown = group;
  const mine = ++turn;
  say('');
  const filters = filtersOf(group);
  const { deadLetters } = await get('dead-letters', { ...filters, limit: String(LETTERS_SHOWN) });
  if (mine !== turn) return;
  element('letters-title').textContent =
    `${group.code} of ${group.device}, the newest ${deadLetters.length} of ${whole.format(group.count)}`;
  const rows = deadLetters.map((letter) => {
    const line = document.createElement('tr');
    const bytes = document.createElement('code');
    bytes.textContent = textOf(letter.payload);
    const where = letter.path === undefined ? '' : ` (${letter.path})`;
    line.append(
      cell(letter.received),
      cell(letter.replayed === undefined ? 'open' : 'replayed'),
      cell(`${letter.message}${where}`),
      cell(bytes),
    );
    return line;
  });
  element('letters').replaceChildren(...rows);
  element('letters-open').hidden = false;
}

function row(group, onProblem) {
  const line = document.createElement('tr');
  const open = () => show(group).catch(onProblem);
  line.append(
    cell(button(group.device, 'Show these letters', open)),
    cell(group.code),
    cell(group.type),
    cell(group.version || '–'),
    cell(whole.format(group.open), 'number'),
    cell(whole.format(group.count), 'number'),
    cell(group.newest),
  );
  return line;
}

/** @param {() => void} onChange the choice of tenant or range has changed */
export function startLetters(onChange) {
  for (const id of ['letters-tenant', 'letters-range']) {
    element(id).addEventListener('change', () => {
      turn += 1;
      element('letters-open').hidden = true;
      onChange();
    });
  }
  element('letters-try').addEventListener('click', tryAgain);
  element('letters-replay').addEventListener('click', replay);
}

/**
 * Asks for the groups of the chosen tenant and shows them.
 * @param {(error: unknown) => void} onProblem of what is asked for later
 */
export async function showLetters(onProblem) {
  const tenant = element('letters-tenant').value;
  if (tenant === '') return;
  const from = `-${element('letters-range').value}`;
  const { groups } = await get('dead-letters/groups', { tenant, from });
  const body = element('letter-groups');
  // A row that is replaced would lose the focus of its button.
  if (!body.contains(document.activeElement)) {
    body.replaceChildren(...groups.slice(0, GROUPS_SHOWN).map((group) => row(group, onProblem)));
  }
  element('letter-groups-empty').hidden = groups.length > 0;
}
