// Serves DID documents as a PLC directory on loopback. Every answer is at hand.
//
//   node directory.mjs PLC_LOG
//
// PLC_LOG holds one operation a line, as `/export` of the PLC directory gives them. For each account the last
// operation counts that was not nullified. Prints one line of JSON when it is ready: {"port", "documents"}.
import fs from 'node:fs'
import http from 'node:http'

const CONTEXT = ['https://www.w3.org/ns/did/v1', 'https://w3id.org/security/multikey/v1']

const operations = new Map()
for (const text of fs.readFileSync(process.argv[2], 'utf8').split('\n').filter(Boolean)) {
  const line = JSON.parse(text)
  const ofAccount = operations.get(line.did) ?? []
  // The testbed's own line: an earlier operation of the account was nullified.
  if (line.nullify) operations.set(line.did, ofAccount.filter((earlier) => earlier.cid !== line.nullify))
  else if (!line.nullified) operations.set(line.did, [...ofAccount, line])
}

function documentOf(did, operation) {
  if (operation.type === 'plc_tombstone') return undefined
  const isLegacy = operation.type === 'create'
  const keys = isLegacy ? { atproto: operation.signingKey } : operation.verificationMethods
  const services = isLegacy
    ? { atproto_pds: { type: 'AtprotoPersonalDataServer', endpoint: operation.service } }
    : operation.services
  return {
    '@context': CONTEXT,
    id: did,
    alsoKnownAs: isLegacy ? [`at://${operation.handle}`] : operation.alsoKnownAs,
    verificationMethod: Object.entries(keys).map(([name, key]) => ({
      id: `${did}#${name}`,
      type: 'Multikey',
      controller: did,
      publicKeyMultibase: key.replace(/^did:key:/, ''),
    })),
    service: Object.entries(services).map(([name, { type, endpoint }]) => ({
      id: `#${name}`,
      type,
      serviceEndpoint: endpoint,
    })),
  }
}

const documents = new Map()
for (const [did, ofAccount] of operations) {
  const document = ofAccount.length && documentOf(did, ofAccount.at(-1).operation)
  if (document) documents.set(did, Buffer.from(JSON.stringify(document)))
}

const server = http.createServer((request, response) => {
  const document = documents.get(decodeURIComponent(request.url.slice(1)))
  if (!document) {
    response.statusCode = 404
    return response.end('{"message":"DID not registered"}')
  }
  response.setHeader('content-type', 'application/did+ld+json; charset=utf-8')
  response.end(document)
})
server.keepAliveTimeout = 60_000
server.listen(0, '127.0.0.1', () => {
  console.log(JSON.stringify({ port: server.address().port, documents: documents.size }))
})
