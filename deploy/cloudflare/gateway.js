// A gateway to a D1 database: takes the batches of a D1 sink, as the REST API does, and runs each in one
// transaction. A Worker with the binding has no limit of 1,200 requests in five minutes, and is nearer to
// the database.
//
//   POST /   {"batch": [{"sql": "...", "params": ["..."]}]}   Authorization: Bearer TOKEN
//
// The binding is `DB`, the secret `TOKEN`.

// What a batch may have at most. The sink sends less.
const MOST_BYTES = 32 << 20;

// The code that the REST API has for every error of a query.
const QUERY_FAILED = 7500;
const UNAUTHORIZED = 10000;

export default {
  async fetch(request, env) {
    if (!(await isAllowed(request, env.TOKEN))) {
      return refusal(401, UNAUTHORIZED, "the token is not the gateway's");
    }
    if (request.method !== "POST") {
      return refusal(405, QUERY_FAILED, "only POST is taken");
    }
    const length = Number(request.headers.get("content-length") ?? "0");
    if (length > MOST_BYTES) {
      return refusal(413, QUERY_FAILED, `the request has more than ${MOST_BYTES} bytes`);
    }
    let statements;
    try {
      const { batch } = await request.json();
      statements = batch.map(({ sql, params }) => env.DB.prepare(sql).bind(...(params ?? [])));
    } catch (error) {
      return refusal(400, QUERY_FAILED, `the request is no batch: ${error.message}`);
    }
    try {
      const result = await env.DB.batch(statements);
      return Response.json({ success: true, errors: [], messages: [], result });
    } catch (error) {
      return refusal(400, QUERY_FAILED, error.message);
    }
  },
};

function refusal(status, code, message) {
  return Response.json({ success: false, errors: [{ code, message }], messages: [], result: null }, { status });
}

// Compares digests, so that the time of an answer tells nothing of the token.
async function isAllowed(request, token) {
  const given = request.headers.get("authorization") ?? "";
  if (!token || !given.startsWith("Bearer ")) {
    return false;
  }
  const digest = async (text) => crypto.subtle.digest("SHA-256", new TextEncoder().encode(text));
  const [expected, found] = await Promise.all([digest(token), digest(given.slice("Bearer ".length))]);
  return crypto.subtle.timingSafeEqual(expected, found);
}
