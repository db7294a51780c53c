/** What the API answered: its codes are those of `docs/errors.md` and of HTTP. */
export class ApiError extends Error {
  readonly code: string;
  readonly next: string;

  constructor(code: string, message: string, next: string) {
    super(message);
    this.name = 'ApiError';
    this.code = code;
    this.next = next;
  }
}
