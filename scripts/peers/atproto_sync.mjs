// Reads a firehose with @atproto/sync, as its README shows: authenticated, with a filter.
//
//   node atproto_sync.mjs SOURCE PLC LAST_SEQ COLLECTIONS
//
// Runs from the folder that has its packages. Prints "END" and what it saw after LAST_SEQ, and waits.
import { IdResolver, MemoryCache } from '@atproto/identity'
import { Firehose } from '@atproto/sync'

const [service, plcUrl, lastSeq, collections] = process.argv.slice(2)
const seen = { events: 0, kept: 0, errors: 0 }
const firehose = new Firehose({
  service,
  // Its own fetch refuses loopback.
  idResolver: new IdResolver({ plcUrl, didCache: new MemoryCache(), fetch: globalThis.fetch }),
  filterCollections: collections.split(','),
  getCursor: () => 0,
  // There is no DNS on loopback, so handles cannot be verified.
  unauthenticatedHandles: true,
  handleEvent: () => { seen.kept++ },
  onError: () => { seen.errors++ },
})
// Every event comes through here, also those that the filter leaves out.
const processEvent = firehose.processEvt.bind(firehose)
firehose.processEvt = async (event) => {
  await processEvent(event)
  seen.events++
  if (event.seq >= Number(lastSeq)) console.log('END', JSON.stringify(seen))
}
firehose.start()
