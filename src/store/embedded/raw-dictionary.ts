import { SpillwayError } from '../../core/errors.ts';
import type { Values } from '../../core/nouns.ts';
import { newId } from './device-ids.ts';
import type { SqliteFile } from './sqlite-file.ts';

/** Cached ids of each sort for each open file; at the limit the cache starts afresh. */
const CACHED_MAX = 20_000;

/** A device type with the names of a reading's metrics, in the order of its values. */
export interface Shape {
  type: string;
  metrics: string[];
}

/** A step towards a shape: the metrics so far, one map lookup for each. */
interface ShapeNode {
  id: number | undefined;
  next: Map<string, ShapeNode>;
}

/** Ids of shapes in one raw file. Lives as long as the file is open. */
export class RawDictionary {
  private readonly db: SqliteFile;
  private readonly shapes = new Map<string, ShapeNode>();
  private shapeNodes = 0;
  private readonly series = new Set<number>();
  private readonly decoded = new Map<number, Shape>();

  constructor(db: SqliteFile) {
    this.db = db;
  }

  /** The id of a reading's shape, given one if it is new. */
  shapeId(type: string, values: Values): number {
    let node = this.child(this.shapes, type);
    for (const metric in values) node = this.child(node.next, metric);
    node.id ??= this.storedShapeId(type, Object.keys(values));
    if (this.shapeNodes > CACHED_MAX) {
      this.shapes.clear();
      this.shapeNodes = 0;
    }
    return node.id;
  }

  private child(nodes: Map<string, ShapeNode>, key: string): ShapeNode {
    let node = nodes.get(key);
    if (node === undefined) {
      node = { id: undefined, next: new Map() };
      nodes.set(key, node);
      this.shapeNodes++;
    }
    return node;
  }

  private storedShapeId(type: string, metrics: string[]): number {
    const text = JSON.stringify(metrics);
    const sql = 'SELECT id FROM shape WHERE type = ? AND metrics = ?';
    return (
      this.db.get<{ id: number }>(sql, type, text)?.id ??
      newId(this.db, 'INSERT INTO shape(type, metrics) VALUES (?, ?) RETURNING id', type, text)
    );
  }

  /** Notes that a device has rows of a shape; {@link shape} tells the metrics. */
  noteSeries(device: number, shape: number): void {
    // Row ids stay below 2^26, so that both fit into one exact number.
    const key = device * 2 ** 26 + shape;
    if (this.series.has(key)) return;
    if (this.series.size >= CACHED_MAX) this.series.clear();
    this.series.add(key);
    this.db.run(
      'INSERT INTO series(device, shape) VALUES (?, ?) ON CONFLICT DO NOTHING',
      device,
      shape,
    );
  }

  shape(id: number): Shape {
    const known = this.decoded.get(id);
    if (known !== undefined) return known;
    const sql = 'SELECT type, metrics FROM shape WHERE id = ?';
    const row = this.db.get<{ type: string; metrics: string }>(sql, id);
    if (row === undefined) {
      throw new SpillwayError('STORE_CORRUPT', `${this.db.path}: a row names no shape: ${id}`);
    }
    const shape = { type: row.type, metrics: JSON.parse(row.metrics) as string[] };
    if (this.decoded.size >= CACHED_MAX) this.decoded.clear();
    this.decoded.set(id, shape);
    return shape;
  }
}

const dictionaries = new WeakMap<SqliteFile, RawDictionary>();

/** The dictionary of an open raw file. */
export function rawDictionary(db: SqliteFile): RawDictionary {
  let dictionary = dictionaries.get(db);
  if (dictionary === undefined) {
    dictionary = new RawDictionary(db);
    dictionaries.set(db, dictionary);
  }
  return dictionary;
}
