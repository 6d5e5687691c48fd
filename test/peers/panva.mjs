// oauth4webapi as two clients that know nothing but an MCP endpoint: each finds
// out where to sign in, keeps a key that its tokens are bound to, and refreshes
// one. The first then hands a part of its right to the second by token
// exchange. The browser is the test: an address to open goes out on a line, the
// answer comes in on one.
import { createInterface } from 'node:readline';
import * as oauth from 'oauth4webapi';

const task = JSON.parse(process.env.OSTIARY_TASK);
const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const say = o => process.stdout.write(JSON.stringify(o) + '\n');
const plain = { [oauth.allowInsecureRequests]: true }; // everything is on this machine
const redirect = 'http://127.0.0.1:7777/callback';
const seen = { nonces: 0 };

// withNonce does it again when the server wants its nonce in the proof.
async function withNonce(f) {
  try {
    return await f();
  } catch (e) {
    if (!oauth.isDPoPNonceError(e)) throw e;
    seen.nonces++;
    return await f();
  }
}

async function discover() {
  const url = new URL(task.url);
  const resource = await oauth.processResourceDiscoveryResponse(url, await oauth.resourceDiscoveryRequest(url, plain));
  const issuer = new URL(resource.authorization_servers[0]);
  const as = await oauth.processDiscoveryResponse(issuer, await oauth.discoveryRequest(issuer, { algorithm: 'oauth2', ...plain }));
  return { resource, as };
}

class Client {
  constructor(as, id) {
    this.as = as;
    this.client = { client_id: id };
  }
  async keep() {
    this.key = await oauth.generateKeyPair('ES256');
    this.dpop = oauth.DPoP(this.client, this.key);
  }
  async signIn(scope, more = {}) {
    const verifier = oauth.generateRandomCodeVerifier(), state = oauth.generateRandomState();
    const to = new URL(this.as.authorization_endpoint);
    for (const [k, v] of Object.entries({
      client_id: this.client.client_id, redirect_uri: redirect, response_type: 'code', scope, state, resource: task.url,
      code_challenge: await oauth.calculatePKCECodeChallenge(verifier), code_challenge_method: 'S256', dpop_jkt: await this.dpop.calculateThumbprint(), ...more,
    })) to.searchParams.set(k, v);
    say({ open: to.toString() });
    const { value } = await lines.next();
    const params = oauth.validateAuthResponse(this.as, this.client, new URL(JSON.parse(value).url), state);
    await this.take(() => oauth.authorizationCodeGrantRequest(this.as, this.client, oauth.None(), params, redirect, verifier, this.extra()), oauth.processAuthorizationCodeResponse);
  }
  extra(more = {}) { return { DPoP: this.dpop, additionalParameters: { resource: task.url, ...more }, ...plain }; }
  async take(ask, read) {
    this.token = await withNonce(async () => read(this.as, this.client, await ask()));
  }
  async refresh() {
    const before = this.token;
    await this.take(() => oauth.refreshTokenGrantRequest(this.as, this.client, oauth.None(), before.refresh_token, this.extra()), oauth.processRefreshTokenResponse);
    return { another: this.token.access_token !== before.access_token, rotated: this.token.refresh_token !== before.refresh_token };
  }
  // exchange asks for a token with which the actor does a part of what this one may.
  async exchange(actor, details) {
    const params = {
      subject_token: this.token.access_token, subject_token_type: 'urn:ietf:params:oauth:token-type:access_token',
      actor_token: actor.token.access_token, actor_token_type: 'urn:ietf:params:oauth:token-type:access_token',
      requested_token_type: 'urn:ietf:params:oauth:token-type:access_token', resource: task.url,
      authorization_details: details,
    };
    return withNonce(async () => oauth.processGenericTokenEndpointResponse(this.as, this.client,
      await oauth.genericTokenEndpointRequest(this.as, this.client, oauth.None(), 'urn:ietf:params:oauth:grant-type:token-exchange', params, { DPoP: this.dpop, ...plain })));
  }
  // call is an MCP call of revision 2026-07-28, with a proof for this very request.
  async call(tool, token = this.token.access_token, how = { DPoP: this.dpop }) {
    const body = JSON.stringify({
      jsonrpc: '2.0', id: 1, method: 'tools/call', params: {
        name: tool, arguments: {},
        _meta: { 'io.modelcontextprotocol/protocolVersion': '2026-07-28', 'io.modelcontextprotocol/clientCapabilities': {} },
      },
    });
    const headers = new Headers({
      'content-type': 'application/json', accept: 'application/json, text/event-stream',
      'mcp-protocol-version': '2026-07-28', 'mcp-method': 'tools/call', 'mcp-name': tool,
    });
    try {
      const r = await withNonce(() => oauth.protectedResourceRequest(token, 'POST', new URL(task.url), headers, body, { ...how, ...plain }));
      return { status: r.status, text: await r.text() };
    } catch (e) {
      if (!(e instanceof oauth.WWWAuthenticateChallengeError)) throw e;
      return { status: e.status, text: JSON.stringify(e.cause) };
    }
  }
}

try {
  const { resource, as } = await discover();
  const first = new Client(as, task.first), second = new Client(as, task.second), thief = new Client(as, task.first);
  for (const c of [first, second, thief]) await c.keep();
  const details = terms => JSON.stringify([{ type: 'ostiary_mandate', terms }]);
  await first.signIn(task.scope, { authorization_details: details({ task: 'read the notes', depth: 1 }) });
  await second.signIn(task.scope);
  const out = {
    scopes: resource.scopes_supported, type: first.token.token_type,
    call: await first.call(task.tool), again: await first.call(task.tool),
    refresh: await first.refresh(), refreshed: await first.call(task.tool),
    stolen: await thief.call(task.tool, first.token.access_token), bearer: await first.call(task.tool, first.token.access_token, {}),
  };
  const part = await first.exchange(second, details({ actions: [task.tool], servers: ['notes'] }));
  out.exchanged = { issued: part.issued_token_type, type: part.token_type, refresh: !!part.refresh_token };
  out.acted = await second.call(task.tool, part.access_token);
  out.notItself = await first.call(task.tool, part.access_token);
  out.wider = await second.call(task.other, part.access_token);
  out.nonces = seen.nonces;
  say(out);
} catch (e) {
  say({ error: String(e), code: e.code, cause: String(e.cause?.stack ?? JSON.stringify(e.cause) ?? '') });
  process.exitCode = 1;
}
process.exit();
