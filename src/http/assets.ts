import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';

/** The files of the console, each by its own path: nothing else of the disk can be asked for. */
export interface Asset {
  type: string;
  body: Buffer;
  etag: string;
}

const HTML = 'text/html; charset=utf-8';
const JS = 'text/javascript; charset=utf-8';
const CSS = 'text/css; charset=utf-8';
const SVG = 'image/svg+xml';

const OWN: readonly (readonly [path: string, file: string, type: string])[] = [
  ['/', 'index.html', HTML],
  ['/console/console.css', 'console.css', CSS],
  ['/console/main.js', 'main.js', JS],
  ['/console/api.js', 'api.js', JS],
  ['/console/chart.js', 'chart.js', JS],
  ['/console/devices.js', 'devices.js', JS],
  ['/console/figures.js', 'figures.js', JS],
  ['/console/letters.js', 'letters.js', JS],
  ['/console/overload.js', 'overload.js', JS],
  ['/console/processes.js', 'processes.js', JS],
  ['/console/sign-in.js', 'sign-in.js', JS],
  ['/console/icon.svg', 'icon.svg', SVG],
];

const UPLOT: readonly (readonly [path: string, file: string, type: string])[] = [
  ['/console/uplot.js', 'uPlot.esm.js', JS],
  ['/console/uplot.css', 'uPlot.min.css', CSS],
];

async function load(file: string, type: string): Promise<Asset> {
  const body = await readFile(file);
  const etag = `"${createHash('sha256').update(body).digest('base64url').slice(0, 22)}"`;
  return { type, body, etag };
}

/** Reads all files into memory (about 150 KB). */
export async function loadAssets(): Promise<Map<string, Asset>> {
  const uplot = dirname(createRequire(import.meta.url).resolve('uplot'));
  const own = join(import.meta.dirname, 'console');
  const assets = new Map<string, Asset>();
  for (const [path, file, type] of OWN) assets.set(path, await load(join(own, file), type));
  for (const [path, file, type] of UPLOT) assets.set(path, await load(join(uplot, file), type));
  return assets;
}
