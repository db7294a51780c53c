/**
 * `npm run bench`: what the README's figures come from. Ratios come from one run on one machine; a
 * single absolute time says little. `-- --json FILE` writes the figures, `--only a,b` runs some parts.
 */
import { writeFileSync } from 'node:fs';
import { benchBackfill } from './backfill.ts';
import { benchInflux } from './influxdb.ts';
import { benchIngest } from './ingest.ts';
import { benchOptions, JSON_FILE } from './options.ts';
import { benchEndToEnd, benchIdle, benchVisible } from './program.ts';

const values = benchOptions('bench', {
  json: JSON_FILE,
  only: ['ingest,endToEnd,idle,visible,influxdb', 'parts, of these and backfill'],
  seconds: ['60', 'of the longer parts'],
  rate: ['30000', 'readings/s of the whole path'],
  influxRate: ['15000', 'readings/s of the part influxdb'],
});
const parts = new Set(values.only.split(','));
const figures: Record<string, unknown> = { node: process.version, at: new Date().toISOString() };

if (parts.has('ingest')) {
  const ingest = await benchIngest({ seconds: 8, rounds: 3 });
  figures.ingest = ingest;
  line('ingest: CPU per durable, validated reading', `${ingest.cpuMicrosPerReading.toFixed(1)} µs`);
  line('ingest: acknowledged', `${ingest.readingsPerSecond} readings/s`);
  const { brokerPath, mosquitto, mqtt5, ratioToMosquitto } = ingest;
  line(
    '  with the fast path off',
    `${brokerPath.cpuMicrosPerReading.toFixed(1)} µs, ${brokerPath.readingsPerSecond}/s`,
  );
  line('  in MQTT 5', `${mqtt5.cpuMicrosPerReading.toFixed(1)} µs, ${mqtt5.readingsPerSecond}/s`);
  if (mosquitto !== undefined && ratioToMosquitto !== undefined) {
    line(
      '  mosquitto, from memory',
      `${mosquitto.cpuMicrosPerReading.toFixed(1)} µs, ${mosquitto.readingsPerSecond}/s`,
    );
    line('  ratio to mosquitto', ratioToMosquitto.toFixed(2));
  }
}
if (parts.has('endToEnd')) {
  const endToEnd = await benchEndToEnd({
    seconds: Number(values.seconds),
    rate: Number(values.rate),
  });
  figures.endToEnd = endToEnd;
  line('end to end: sustained', `${endToEnd.readingsPerSecond} readings/s for ${values.seconds} s`);
  line(
    'end to end: backlog growth',
    `${endToEnd.backlogGrowth.toFixed(0)} records/s (at most ${endToEnd.backlogMax})`,
  );
  line('end to end: CPU per reading', `${endToEnd.cpuMicrosPerReading.toFixed(1)} µs`);
  line('end to end: PUBACK p99', `${endToEnd.pubackP99Ms.toFixed(0)} ms`);
  line('end to end: memory', `${endToEnd.rssMiB.toFixed(0)} MiB`);
}
if (parts.has('idle')) {
  const idle = await benchIdle({ connections: 10_000 });
  figures.idleRssMiB = idle.idleRssMiB;
  figures.kibPerConnection = idle.kibPerConnection;
  line('idle: memory of the whole program', `${idle.idleRssMiB.toFixed(0)} MiB`);
  line(`idle: each of ${idle.connections} connections`, `${idle.kibPerConnection.toFixed(1)} KiB`);
}
if (parts.has('visible')) {
  const visible = await benchVisible({ seconds: 30 });
  figures.visible = visible;
  line('publish to visible in a query, 100/s', `p50 ${visible.p50Ms} ms, p99 ${visible.p99Ms} ms`);
}
if (parts.has('backfill')) {
  for (const device of ['none', 'lane', 'noLane'] as const) {
    const backfill = await benchBackfill({ seconds: Number(values.seconds), device });
    figures[`backfill/${device}`] = backfill;
    const names = { none: 'live alone', lane: 'beside a backfill', noLane: 'beside one, no lane' };
    line(
      `${names[device]}: live PUBACK p99, visible p50, p99`,
      `${backfill.pubackP99Ms.toFixed(1)} ms, ${backfill.visibleP50Ms} ms, ${backfill.visibleP99Ms} ms`,
    );
    line(
      '  old readings acknowledged, processed',
      `${backfill.acknowledgedPerSecond}/s, ${backfill.processedPerSecond}/s`,
    );
  }
}
if (parts.has('influxdb')) {
  const rate = Number(values.influxRate);
  const influx = await benchInflux({ seconds: Number(values.seconds), rate });
  if (influx !== undefined) {
    figures.influxdb = influx;
    const { sustained, unpaced, stages } = influx;
    const { lagMedian, lagMax } = sustained;
    const micros = (value: number) => `${value.toFixed(1)} µs`;
    line('InfluxDB: sustained', `${sustained.readingsPerSecond} readings/s`);
    line('InfluxDB: readings that waited after a flush', `median ${lagMedian}, most ${lagMax}`);
    line('InfluxDB: CPU per reading', micros(sustained.cpuMicrosPerReading));
    for (const [stage, cost] of Object.entries(stages)) line(`  ${stage}`, micros(cost));
    line('  influxd itself', micros(sustained.influxdMicrosPerReading));
    line('InfluxDB: as fast as it goes', `${unpaced.readingsPerSecond} readings/s`);
    line('  CPU per reading', micros(unpaced.cpuMicrosPerReading));
    line('  influxd itself', micros(unpaced.influxdMicrosPerReading));
    line('InfluxDB: memory', `${sustained.rssMiB.toFixed(0)} MiB`);
  }
}
if (values.json !== '') writeFileSync(values.json, `${JSON.stringify(figures, null, 2)}\n`);

function line(what: string, figure: string): void {
  console.log(`${what.padEnd(48)} ${figure}`);
}
