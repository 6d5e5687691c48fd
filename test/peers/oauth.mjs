// @modelcontextprotocol/sdk 1.x as a client that knows nothing of the gateway:
// it discovers where to sign in, is known by its metadata document, and comes
// back for more when its scope is too narrow. The browser is the test: an
// address to open goes out on a line, the answer comes in on one.
import { createInterface } from 'node:readline';
import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { StreamableHTTPClientTransport } from '@modelcontextprotocol/sdk/client/streamableHttp.js';
import { UnauthorizedError } from '@modelcontextprotocol/sdk/client/auth.js';

const task = JSON.parse(process.env.OSTIARY_TASK);
const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const say = o => process.stdout.write(JSON.stringify(o) + '\n');

let saved, verifier;
const provider = {
  redirectUrl: 'http://127.0.0.1:7777/callback',
  clientMetadataUrl: task.client,
  clientMetadata: { client_name: 'An MCP client', redirect_uris: ['http://127.0.0.1/callback'], grant_types: ['authorization_code', 'refresh_token'], token_endpoint_auth_method: 'none' },
  clientInformation: () => provider.info,
  saveClientInformation: i => { provider.info = i; },
  tokens: () => saved,
  saveTokens: t => { saved = t; },
  saveCodeVerifier: v => { verifier = v; },
  codeVerifier: () => verifier,
  redirectToAuthorization: u => say({ open: u.toString() }),
};

// signedIn runs f; when a person is asked for, it waits for what they said.
async function signedIn(f) {
  for (let round = 0; ; round++) {
    const transport = new StreamableHTTPClientTransport(new URL(task.url), { authProvider: provider });
    const client = new Client({ name: 'official', version: '1' });
    try {
      await client.connect(transport);
      const out = await f(client);
      await client.close();
      return out;
    } catch (e) {
      if (!(e instanceof UnauthorizedError) || round > 3) throw e;
      const { value } = await lines.next();
      await transport.finishAuth(JSON.parse(value).code);
    }
  }
}

try {
  const got = await signedIn(c => c.callTool({ name: task.tool, arguments: {} }));
  say({ text: got.content[0].text, isError: !!got.isError, scope: saved.scope, type: saved.token_type, refresh: !!saved.refresh_token });
} catch (e) {
  say({ error: String(e), code: e.code });
  process.exitCode = 1;
}
process.exit();
