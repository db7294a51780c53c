import { type ErrorCode, SpillwayError } from '../core/errors.ts';
import type { AppendRequest, LogAppender } from '../log/contract.ts';

export interface AppendFailure {
  code: ErrorCode;
  message: string;
}

/** Appends for another thread, while devices leave the log room enough: they go first. */
export function appendFor(
  appender: LogAppender,
  request: AppendRequest,
  done: (failed: AppendFailure | undefined) => void,
): void {
  const code = appender.full ? 'LOG_FULL' : appender.saturated ? 'LOG_SATURATED' : undefined;
  if (code !== undefined) {
    done({ code, message: 'the log has no room now' });
    return;
  }
  appender.append(request, (error) => {
    if (error === null) done(undefined);
    else done({ code: codeOf(error), message: error.message });
  });
}

function codeOf(error: Error): ErrorCode {
  return error instanceof SpillwayError ? error.code : 'LOG_WRITE_FAILED';
}
