// @modelcontextprotocol/client 2.x, which speaks 2026-07-28 and, asked to, the
// revisions before it.
import { Client, StreamableHTTPClientTransport } from '@modelcontextprotocol/client';
import { StdioClientTransport } from '@modelcontextprotocol/client/stdio';
import { answers, capabilities, converse, headers, info, task } from './converse.mjs';

const mode = task.era === '2026-07-28' ? { pin: task.era } : 'legacy';
const client = new Client(info, { capabilities, versionNegotiation: { mode } });
client.setRequestHandler('sampling/createMessage', answers.sample);
client.setRequestHandler('elicitation/create', answers.elicit);

const transport = task.url
  ? new StreamableHTTPClientTransport(new URL(task.url), { requestInit: { headers } })
  : new StdioClientTransport({ command: task.command, args: task.args, env: task.env, stderr: 'inherit' });

await converse(client, transport, c => c.getNegotiatedProtocolVersion(), (c, params, options) => c.callTool(params, options));
