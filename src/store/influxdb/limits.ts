export interface InfluxStoreLimits {
  /** Lines of one write request. */
  batchLinesMax: number;
  /** Bytes of one write request before compression. */
  batchBytesMax: number;
  /** Write requests under way at once. */
  writesMax: number;
  /** Sockets, for writes and queries together. */
  socketsMax: number;
  /** 0 (none) to 9. */
  gzipLevel: number;
  /** A request that takes longer is tried again, ms. */
  attemptTimeoutMs: number;
  /** After so much trying a call throws InfluxUnavailableError, ms; its caller may go on trying. */
  giveUpMs: number;
  /** Waits after failures: drawn from 0 to a bound that doubles from the first to the longest, ms. */
  backoffFirstMs: number;
  backoffLongestMs: number;
  /** The longest `Retry-After` that is honoured, ms. */
  retryAfterMaxMs: number;
  /** Devices whose newest times are remembered. */
  devicesMax: number;
  /** Ledger lines that are remembered for each partition. */
  ledgerCellsMax: number;
  /** Rows are written for so long after a look at who has the partitions, ms; less than a log's session timeout. */
  leaseMs: number;
  /** Bytes of one query's answer. */
  answerBytesMax: number;
}

export const INFLUX_LIMITS: InfluxStoreLimits = {
  batchLinesMax: 5_000,
  batchBytesMax: 2 * 2 ** 20,
  writesMax: 2,
  socketsMax: 16,
  gzipLevel: 1,
  attemptTimeoutMs: 30_000,
  giveUpMs: 60_000,
  backoffFirstMs: 250,
  backoffLongestMs: 15_000,
  retryAfterMaxMs: 300_000,
  devicesMax: 100_000,
  ledgerCellsMax: 200_000,
  leaseMs: 5_000,
  answerBytesMax: 256 * 2 ** 20,
};
