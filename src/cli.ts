import { Command } from 'commander';
import { rolesArgument, sayHow } from './cli/arguments.ts';
import { addAuditCommand } from './cli/audit.ts';
import { configFile, print, readConfig, reportError } from './cli/context.ts';
import { addDeadLetterCommands } from './cli/dead-letters.ts';
import { addDeviceCommands, addTokenCommands } from './cli/devices.ts';
import { addExplainCommand } from './cli/explain.ts';
import { addReportCommand } from './cli/reports.ts';
import { addTypeCommands } from './cli/types.ts';
import { explain } from './config/explain.ts';
import { loadConfig } from './config/load.ts';
import { VERSION } from './version.ts';

/** Arguments → calls. Errors go to stderr with their code and what to do next; exit code 1. */
const program = new Command('spillway')
  .description(
    'IoT ingestion gateway: MQTT in, durable before it is acknowledged, rollups and reports out',
  )
  .version(VERSION);

program
  .command('run')
  .description('run the gateway, the rollup worker and the HTTP server until Ctrl-C or SIGTERM')
  .option('--config <file>', 'configuration file')
  .option('--roles <list>', 'some of gateway,rollup,http; default: as configured', rolesArgument)
  .action(async (options) => {
    const { run } = await import('./cli/run.ts');
    await run(readConfig(options.config, { roles: options.roles }));
  });

program
  .command('demo')
  .description('run everything on loopback with a simulated fleet of 50 devices')
  .option('--config <file>', 'configuration file', 'config/demo.yaml')
  .action(async (options) => {
    const { demo } = await import('./cli/demo.ts');
    await demo(readConfig(options.config));
  });

program
  .command('config')
  .description(
    'every key with its value and where that comes from; exits 1 with all findings when it is wrong',
  )
  .option('--config <file>', 'configuration file')
  .action(async (options) => {
    const { config, sources } = loadConfig({ file: configFile(options.config), env: process.env });
    await print(
      explain(config, sources).map(({ key, value, source }) => `${key} = ${value}  (${source})\n`),
    );
  });

addDeviceCommands(program);
addTokenCommands(program);
addTypeCommands(program);
addReportCommand(program);
addAuditCommand(program);
addDeadLetterCommands(program);
addExplainCommand(program);

sayHow(program);

process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code === 'EPIPE') process.exit(0);
});
await program.parseAsync().catch(reportError);
