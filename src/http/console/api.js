/** Requests to the API. The header tells the server that this page asks and no other site. */

const TIMEOUT_MS = 10_000;
/** Kept for this tab alone, until it is closed. */
const TOKEN_KEY = 'spillway-token';

export const token = {
  get: () => sessionStorage.getItem(TOKEN_KEY) ?? '',
  set(value) {
    if (value === '') sessionStorage.removeItem(TOKEN_KEY);
    else sessionStorage.setItem(TOKEN_KEY, value);
  },
};

/** What the server answered that is no success. */
export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** With a token that one counts alone; without, the server takes the header for this machine's user. */
function headers() {
  const given = token.get();
  return {
    'X-Spillway-Console': '1',
    ...(given === '' ? {} : { Authorization: `Bearer ${given}` }),
  };
}

/**
 * @param {string} path below `/api/v1/`
 * @param {Record<string, string>} [parameters]
 * @returns {Promise<any>} the JSON of the answer; rejects with a sentence for people
 */
export function get(path, parameters = {}) {
  const query = new URLSearchParams(parameters).toString();
  return ask(`${path}${query === '' ? '' : `?${query}`}`, { headers: headers() });
}

/**
 * @param {string} path below `/api/v1/`
 * @param {object} body
 * @returns {Promise<any>} as {@link get}
 */
export function post(path, body) {
  return ask(path, {
    method: 'POST',
    headers: { ...headers(), 'Content-Type': 'application/json' },
    body: JSON.stringify(body),
  });
}

async function ask(path, request) {
  const response = await fetch(`/api/v1/${path}`, {
    ...request,
    signal: AbortSignal.timeout(TIMEOUT_MS),
  }).catch(() => {
    throw new Error('Spillway does not answer; is it running?');
  });
  const body = await response.json().catch(() => undefined);
  if (response.ok && body !== undefined) return body;
  const { message = `HTTP ${response.status}`, next = '' } = body?.error ?? {};
  throw new ApiError(response.status, `${message} ${next}`);
}

/**
 * Repeats `work` while the page is visible; a turn begins when the one before has ended.
 * @param {() => Promise<void>} work never rejects
 * @param {number} everyMs
 * @returns {() => void} does a turn now
 */
export function repeat(work, everyMs) {
  let timer;
  let running = false;
  let again = false;
  const turn = async () => {
    if (running) {
      again = true;
      return;
    }
    clearTimeout(timer);
    running = true;
    do {
      again = false;
      await work();
    } while (again);
    running = false;
    if (!document.hidden) timer = setTimeout(turn, everyMs);
  };
  document.addEventListener('visibilitychange', () => {
    if (!document.hidden) turn();
  });
  turn();
  return turn;
}
