/** A line that another thread has to say; the main thread writes it. */
export interface LogLine {
  kind: 'log';
  level: 'info' | 'warn' | 'error';
  fields: Record<string, unknown>;
  message: string;
}

type Say = (fields: Record<string, unknown>, message: string) => void;

/** A logger for threads: one writer is enough, and pino in each thread takes megabytes. */
export function threadLogger(post: (line: LogLine) => void): Record<LogLine['level'], Say> {
  const say =
    (level: LogLine['level']): Say =>
    (fields, message) =>
      post({ kind: 'log', level, fields: plain(fields), message });
  return { info: say('info'), warn: say('warn'), error: say('error') };
}

/** What a message between threads can carry of the fields; errors lose their code there. */
function plain(fields: Record<string, unknown>): Record<string, unknown> {
  const { err, ...rest } = fields;
  if (!(err instanceof Error)) return fields;
  const { name, message, stack } = err;
  const { code } = err as { code?: unknown };
  return {
    ...rest,
    err: { type: name, message, stack, ...(code === undefined ? {} : { code: String(code) }) },
  };
}
