// Starts a second reference server beside the testbed's, moves an account to it, and writes records there.
// Prints one line of JSON when the account has moved, and runs until it is stopped.
//
//   cd TESTBED_DIR && node --input-type=module - --data DIR --port 2783 --pds URL --plc-port 2682 \
//     --handle NAME --password SECRET --rotation-key HEX < migrate_account.mjs
//
// Node reads this file from standard input, so that it finds the testbed's packages.
import fs from 'node:fs'
import path from 'node:path'
import { parseArgs } from 'node:util'
import { Secp256k1Keypair } from '@atproto/crypto'
import plc from '@did-plc/lib'
import { PDS, envToCfg, envToSecrets } from '@atproto/pds'

const { values: given } = parseArgs({ options: Object.fromEntries(
  ['data', 'port', 'pds', 'plc-port', 'handle', 'password', 'rotation-key'].map((name) => [name, { type: 'string' }]),
) })
const OFFER = 'com.huddle.slotOffer'
const SERVICE_DID = 'did:web:second.test'
const directory = `http://localhost:${given['plc-port']}`

async function startServer() {
  const data = path.resolve(given.data)
  fs.mkdirSync(path.join(data, 'blobs'), { recursive: true })
  const key = Buffer.from(await (await Secp256k1Keypair.create({ exportable: true })).export()).toString('hex')
  const env = {
    devMode: true, port: +given.port, hostname: 'localhost', serviceDid: SERVICE_DID,
    dataDirectory: data, blobstoreDiskLocation: path.join(data, 'blobs'),
    adminPassword: 'admin-pass', jwtSecret: 'a secret of the second server',
    serviceHandleDomains: ['.test'], didPlcUrl: directory, plcRotationKeyK256PrivateKeyHex: key,
    inviteRequired: false, disableSsrfProtection: true, rateLimitsEnabled: false,
  }
  const server = await PDS.create(envToCfg(env), envToSecrets(env))
  const listen = server.app.listen
  server.app.listen = (port, ...rest) => listen.call(server.app, port, '127.0.0.1', ...rest)
  await server.start()
  return server
}

async function request(host, name, token, options) {
  const answer = await fetch(`${host}/xrpc/${name}`, {
    ...options, headers: { ...options.headers, ...(token ? { authorization: `Bearer ${token}` } : {}) },
  })
  if (!answer.ok) throw new Error(`${name}: ${answer.status} ${await answer.text()}`)
  const isJson = answer.headers.get('content-type')?.includes('json')
  return isJson ? answer.json() : Buffer.from(await answer.arrayBuffer())
}
const get = (host, name, query, token) => request(host, `${name}?${new URLSearchParams(query)}`, token, { method: 'GET' })
const post = (host, name, token, body, type = 'application/json') =>
  request(host, name, token, { method: 'POST', body, headers: body ? { 'content-type': type } : {} })
const json = JSON.stringify

const server = await startServer()
const before = given.pds
const after = `http://127.0.0.1:${given.port}`
const old = await post(before, 'com.atproto.server.createSession', null, json({ identifier: given.handle, password: given.password }))
const { did } = old

// The steps of a migration: an inactive account, the repository, the identity, the switch.
const leave = await get(before, 'com.atproto.server.getServiceAuth', { aud: SERVICE_DID, lxm: 'com.atproto.server.createAccount' }, old.accessJwt)
const created = await post(after, 'com.atproto.server.createAccount', leave.token, json({
  did, handle: given.handle, email: 'moved@example.com', password: given.password,
}))
const token = created.accessJwt
const car = await get(before, 'com.atproto.sync.getRepo', { did })
await post(after, 'com.atproto.repo.importRepo', token, car, 'application/vnd.ipld.car')
const identity = await get(after, 'com.atproto.identity.getRecommendedDidCredentials', {}, token)
const rotationKey = await Secp256k1Keypair.import(given['rotation-key'])
await new plc.Client(directory).updateData(did, rotationKey, (last) => ({ ...last, ...identity }))
await post(after, 'com.atproto.server.activateAccount', token)
await post(before, 'com.atproto.server.deactivateAccount', old.accessJwt, '{}')

// The old server sends no events about what the account writes from here on.
const list = async () => (await get(after, 'com.atproto.repo.listRecords', { repo: did, collection: OFFER, limit: 100 })).records
const offers = await list()
const write = (what, body) => post(after, `com.atproto.repo.${what}`, token, json({ repo: did, collection: OFFER, ...body }))
const moved = { ...offers[0].value, title: 'moved' }
await write('createRecord', { rkey: 'moved', record: moved })
await write('putRecord', { rkey: offers[0].uri.split('/')[4], record: moved })
await write('deleteRecord', { rkey: offers[1].uri.split('/')[4] })
const named = (records) => records.map(({ uri, cid }) => ({ uri, cid }))
console.log(json({ did, before: named(offers), after: named(await list()) }))

const stop = async () => { await server.destroy(); process.exit(0) }
process.on('SIGTERM', stop)
process.on('SIGINT', stop)
