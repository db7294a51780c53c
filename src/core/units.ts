const DURATION_MS: Record<string, number> = {
  ms: 1,
  s: 1_000,
  m: 60_000,
  h: 3_600_000,
  d: 86_400_000,
  w: 604_800_000,
};

const BYTES: Record<string, number> = {
  B: 1,
  KiB: 2 ** 10,
  MiB: 2 ** 20,
  GiB: 2 ** 30,
  TiB: 2 ** 40,
};

/** `500ms`, `10s`, `1m`, `2h`, `30d`, `1w` → ms; undefined when it is no duration. */
export function parseDuration(text: string): number | undefined {
  const match = /^(\d+(?:\.\d+)?)(ms|s|m|h|d|w)$/.exec(text.trim());
  const factor = match?.[2] === undefined ? undefined : DURATION_MS[match[2]];
  return factor === undefined ? undefined : whole(Number(match?.[1]) * factor);
}

/** `512B`, `64KiB`, `1.5GiB` → bytes; undefined when it is no size. */
export function parseBytes(text: string): number | undefined {
  const match = /^(\d+(?:\.\d+)?)(B|KiB|MiB|GiB|TiB)$/.exec(text.trim());
  const factor = match?.[2] === undefined ? undefined : BYTES[match[2]];
  return factor === undefined ? undefined : whole(Number(match?.[1]) * factor);
}

/** So much within so long; an allowance that is used up fills again within the window. */
export interface RateLimit {
  amount: number;
  windowMs: number;
}

/** `500/1s`, `20000/1m` → a limit of a count; undefined when it is none. */
export function parseRate(text: string): RateLimit | undefined {
  return rate(text, (amount) => (/^\d+$/.test(amount) ? Number(amount) : undefined));
}

/** `64KiB/1s`, `1GiB/1d` → a limit of bytes; undefined when it is none. */
export function parseByteRate(text: string): RateLimit | undefined {
  return rate(text, parseBytes);
}

function rate(
  text: string,
  parseAmount: (text: string) => number | undefined,
): RateLimit | undefined {
  const [left, right, ...rest] = text.split('/');
  if (left === undefined || right === undefined || rest.length > 0) return undefined;
  const amount = parseAmount(left.trim());
  const windowMs = parseDuration(right);
  if (amount === undefined || !Number.isSafeInteger(amount) || amount < 1) return undefined;
  return windowMs === undefined || windowMs < 1 ? undefined : { amount, windowMs };
}

/** Beyond 2^53 a number is no longer exact. */
function whole(amount: number): number | undefined {
  const rounded = Math.round(amount);
  return Number.isSafeInteger(rounded) ? rounded : undefined;
}

/** ms → the shortest exact text: `90000` → `90s`. */
export function formatDuration(ms: number): string {
  for (const unit of ['w', 'd', 'h', 'm', 's'] as const) {
    const factor = DURATION_MS[unit] ?? 1;
    if (ms >= factor && ms % factor === 0) return `${ms / factor}${unit}`;
  }
  return `${ms}ms`;
}
