// Runs one system on the recording, and measures its process by /proc.
import { spawn, spawnSync } from 'node:child_process'
import fs from 'node:fs'
import net from 'node:net'
import path from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'

const SAMPLE_MS = 50
// A process that takes less of a core than this has nothing to do.
const QUIET_SHARE = 0.05
const TICKS_PER_SECOND = 100

// Starts one of the two servers as a child that is added to `started`. Returns the JSON that it printed.
async function startServer(started, script, file) {
  const child = spawn(process.execPath, [path.join(import.meta.dirname, script), file], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  started.push(child)
  const line = await new Promise((resolve, reject) => {
    child.stdout.once('data', (data) => resolve(data.toString()))
    child.once('exit', () => reject(new Error(`${script} ended`)))
  })
  return JSON.parse(line)
}

// What the system used from its start until its end is recognised; wall time from its first connection on.
export async function measure(system, { recording, collections, dir, seconds }) {
  const started = []
  const log = path.join(dir, 'output.log')
  try {
    const source = await startServer(started, 'source.mjs', path.join(recording, 'frames.bin'))
    const directory = await startServer(started, 'directory.mjs', path.join(recording, 'plc.jsonl'))
    const http = `http://127.0.0.1:${source.port}`
    const values = {
      url: `ws://127.0.0.1:${source.port}/xrpc/com.atproto.sync.subscribeRepos`,
      source: `ws://127.0.0.1:${source.port}`,
      http,
      plc: `http://127.0.0.1:${directory.port}`,
      last: source.lastSeq,
      port: await freePort(),
      dir,
      collections: `'${collections}'`,
    }
    const fill = (text) => text.replace(/\{(\w+)\}/g, (whole, name) => values[name] ?? whole)
    if (system.prepare) spawnSync('sh', ['-c', fill(system.prepare)], { stdio: 'inherit' })
    const output = fs.openSync(log, 'a')
    const child = spawn('sh', ['-c', fill(system.command)], { stdio: ['ignore', output, output] })
    started.push(child)
    const end = await watch(child, http, source.frames, endOf(fill(system.end), log), seconds)
    const wall = (end.at - (await state(http)).connectedAt) / 1000
    return { ...end, wall, rate: source.frames / wall }
  } catch (error) {
    throw new Error(`${system.name}: ${error.message}; its output: ${log}`)
  } finally {
    // The system first: it must not see its source go.
    for (const child of started.reverse()) await stop(child)
  }
}

// Samples the process until `hasEnded`, and returns the sample at its end.
async function watch(child, http, frames, hasEnded, seconds) {
  const samples = []
  const deadline = Date.now() + seconds * 1000
  while (Date.now() < deadline) {
    await sleep(SAMPLE_MS)
    if (child.exitCode !== null) throw new Error(`ended with ${child.exitCode}`)
    samples.push({ ...sample(child.pid), isSent: (await state(http)).sent === frames })
    const end = await hasEnded(samples)
    if (end) return end
  }
  throw new Error(`not at its end after ${seconds} s`)
}

// How the end is recognised: `line:REGEX`, `get:URL REGEX` or `quiet:SECONDS`.
function endOf(text, log) {
  const [kind, ...rest] = text.split(':')
  const rule = rest.join(':')
  const newest = (samples) => samples.at(-1)
  if (kind === 'line') {
    const pattern = new RegExp(rule)
    return (samples) => {
      const line = fs.readFileSync(log, 'utf8').split('\n').find((text) => pattern.test(text))
      return line !== undefined && { ...newest(samples), line }
    }
  }
  if (kind === 'get') {
    const [url, ...words] = rule.split(' ')
    const pattern = new RegExp(words.join(' '), 'm')
    return async (samples) => pattern.test(await get(url)) && newest(samples)
  }
  if (kind === 'quiet') {
    // The end is where the quiet begins, after everything was sent.
    const width = Number(rule) * 1000
    return (samples) => {
      const now = newest(samples)
      const then = samples.findLast((earlier) => earlier.isSent && now.at - earlier.at >= width)
      if (!then || now.processor - then.processor > QUIET_SHARE * (now.at - then.at) / 1000) return false
      return then
    }
  }
  throw new Error(`${text}: expected line:, get: or quiet:`)
}

// The processor seconds of a process so far, and its largest resident set in MiB.
function sample(pid) {
  const stat = fs.readFileSync(`/proc/${pid}/stat`, 'latin1')
  // The name of the program, in parentheses, may contain any characters.
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
  const [user, system, childUser, childSystem] = fields.slice(11, 15).map((ticks) => ticks / TICKS_PER_SECOND)
  const status = fs.readFileSync(`/proc/${pid}/status`, 'latin1')
  return {
    at: Date.now(),
    processor: user + system + childUser + childSystem,
    system: system + childSystem,
    peak: /^VmHWM:\s*(\d+)/m.exec(status)[1] / 1024,
  }
}

async function get(url) {
  try {
    return await (await fetch(url)).text()
  } catch {
    return '' // not up yet
  }
}

async function state(http) {
  return JSON.parse(await (await fetch(`${http}/_state`)).text())
}

async function stop(child) {
  if (child.exitCode !== null || child.signalCode !== null) return
  const gone = new Promise((resolve) => { child.once('exit', resolve) })
  child.kill('SIGTERM')
  const timer = setTimeout(() => child.kill('SIGKILL'), 5_000)
  await gone
  clearTimeout(timer)
}

async function freePort() {
  const server = net.createServer().listen(0, '127.0.0.1')
  await new Promise((resolve) => { server.once('listening', resolve) })
  const { port } = server.address()
  await new Promise((resolve) => { server.close(resolve) })
  return port
}
