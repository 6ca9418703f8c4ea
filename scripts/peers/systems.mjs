// The systems that are compared: those that are installed from npm and PyPI, this worker, and those that the
// user names.
import { spawnSync } from 'node:child_process'
import fs from 'node:fs'
import path from 'node:path'

const here = import.meta.dirname

const NPM = ['@atproto/sync@0.4.11', '@atproto/identity@0.5.14', '@skyware/firehose@0.5.2', 'ws@8.23.0']
const PYPI = ['atproto==0.0.73']
const CLIENTS = ['atproto_sync.mjs', 'skyware.mjs', 'python_atproto.py']
// A directory on loopback takes more than the courtesy that plc.directory gets.
const FAST_DIRECTORY = { plc_requests_per_second: 10_000, plc_parallelism: 64 }

// Installs the clients and their packages into a folder, once.
export function install(folder) {
  fs.mkdirSync(folder, { recursive: true })
  for (const client of CLIENTS) fs.copyFileSync(path.join(here, client), path.join(folder, client))
  if (!fs.existsSync(path.join(folder, 'node_modules', '@atproto', 'sync'))) {
    fs.writeFileSync(path.join(folder, 'package.json'), '{"private":true,"type":"module"}\n')
    run('npm', ['install', '--no-audit', '--no-fund', ...NPM], folder)
  }
  if (!fs.existsSync(path.join(folder, 'venv', 'installed'))) {
    run('python3', ['-m', 'venv', 'venv'], folder)
    run('venv/bin/pip', ['install', '--quiet', ...PYPI], folder)
    fs.writeFileSync(path.join(folder, 'venv', 'installed'), '')
  }
}

// The systems that need no name from the user, in the order of the table.
export function builtIn(packages, worker) {
  const client = (program) => `cd ${quoted(packages)} && exec ${program} {source} {plc} {last} {collections}`
  return [
    {
      name: '@atproto/sync',
      command: client(`${quoted(process.execPath)} atproto_sync.mjs`),
      end: 'line:^END',
      verifies: 'signature and record of commits that pass the filter',
      stores: 'nothing',
    },
    {
      name: '@skyware/firehose',
      command: client(`${quoted(process.execPath)} skyware.mjs`),
      end: 'line:^END',
      verifies: 'nothing',
      stores: 'nothing',
    },
    {
      name: 'Python atproto',
      command: client('venv/bin/python python_atproto.py'),
      end: 'line:^END',
      verifies: 'nothing',
      stores: 'nothing',
    },
    {
      name: 'this worker',
      command: workerCommand(worker, 'chain'),
      end: 'quiet:2',
      verifies: 'signature, proof and chain of every commit; lexicons',
      stores: 'rows and states, in SQLite',
    },
    {
      name: 'this worker (level none)',
      command: workerCommand(worker, 'none'),
      end: 'quiet:2',
      verifies: 'record hashes, lexicons',
      stores: 'rows, in SQLite',
    },
  ]
}

// The peers that the user names. Each option is NAME=VALUE.
export function named(options) {
  const of = (texts) => new Map(texts.map((text) => {
    const at = text.indexOf('=')
    if (at < 1) throw new Error(`${text}: expected NAME=VALUE`)
    return [text.slice(0, at), text.slice(at + 1)]
  }))
  const [commands, ends, prepares, verifies, stores] =
    ['peer', 'end', 'prepare', 'verifies', 'stores'].map((option) => of(options[option]))
  return [...commands].map(([name, command]) => ({
    name,
    command: `exec env ${command}`,
    prepare: prepares.get(name),
    end: ends.get(name) ?? 'quiet:5',
    verifies: verifies.get(name) ?? '?',
    stores: stores.get(name) ?? '?',
  }))
}

function workerCommand(worker, level) {
  const settings = spawnSync(worker, ['config', 'print'], { encoding: 'utf8' }).stdout ?? ''
  const fast = Object.entries(FAST_DIRECTORY)
    .filter(([setting]) => settings.includes(setting))
    .map(([setting, value]) => `--${setting.replaceAll('_', '-')} ${value}`)
  return [
    `exec ${quoted(worker)} run --source-url {url} --plc-url {plc} --allow-private-addresses true`,
    `--verify ${level} --collections {collections} --database {dir}/worker.db --listen 127.0.0.1:{port}`,
    ...fast,
  ].join(' ')
}

function quoted(text) {
  return `'${text.replaceAll("'", "'\\''")}'`
}

function run(program, args, cwd) {
  const { status } = spawnSync(program, args, { cwd, stdio: ['ignore', 'inherit', 'inherit'] })
  if (status !== 0) throw new Error(`${program} ${args.join(' ')} failed in ${cwd}`)
}
