// @modelcontextprotocol/sdk 1.x, which speaks the revisions up to 2025-11-25.
import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { StdioClientTransport } from '@modelcontextprotocol/sdk/client/stdio.js';
import { StreamableHTTPClientTransport } from '@modelcontextprotocol/sdk/client/streamableHttp.js';
import { CreateMessageRequestSchema, ElicitRequestSchema } from '@modelcontextprotocol/sdk/types.js';
import { answers, capabilities, converse, headers, info, task } from './converse.mjs';

const client = new Client(info, { capabilities });
client.setRequestHandler(CreateMessageRequestSchema, answers.sample);
client.setRequestHandler(ElicitRequestSchema, answers.elicit);

const transport = task.url
  ? new StreamableHTTPClientTransport(new URL(task.url), { requestInit: { headers } })
  : new StdioClientTransport({ command: task.command, args: task.args, env: task.env, stderr: 'inherit' });

// This client tells the agreed revision only to its HTTP transport.
let agreed = '';
if (!task.url) {
  transport.setProtocolVersion = v => { agreed = v; };
}

await converse(client, transport, (_, t) => t.protocolVersion ?? agreed, (c, params, options) => c.callTool(params, undefined, options));
