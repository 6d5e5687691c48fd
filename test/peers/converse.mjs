// What every TypeScript driver does once it has a client: take the steps one
// by one and print one JSON line for each.

const textOf = content => (content ?? []).map(c => c.text ?? '').join('');

const steps = {
  list: async client => ({ names: (await client.listTools()).tools.map(t => t.name) }),
  call: async (client, step, call) => {
    let progress = 0;
    const options = step.progress ? { onprogress: () => { progress++; } } : undefined;
    const res = await call(client, { name: step.name, arguments: step.arguments ?? {} }, options);
    return { text: textOf(res.content), isError: res.isError ?? false, meta: res._meta, progress };
  },
  cancel: async (client, step, call) => {
    const abort = new AbortController();
    const options = { signal: abort.signal, onprogress: () => abort.abort('enough') };
    await call(client, { name: step.name, arguments: step.arguments ?? {} }, options);
    return { text: 'it was not cancelled' };
  },
  resource: async (client, step) => ({ text: textOf((await client.readResource({ uri: step.name })).contents) }),
  resources: async client => ({ names: (await client.listResources()).resources.map(r => r.uri) }),
  prompt: async (client, step) => {
    const res = await client.getPrompt({ name: step.name, arguments: step.arguments ?? {} });
    return { text: textOf(res.messages.map(m => m.content)) };
  },
  prompts: async client => ({ names: (await client.listPrompts()).prompts.map(p => p.name) }),
  complete: async (client, step) => {
    const res = await client.complete({ ref: { type: 'ref/prompt', name: step.name }, argument: step.argument });
    return { names: res.completion.values };
  },
};

// task is what the test asks for: {url, token} or {command, args, env}, the
// era to speak, and the steps.
export const task = JSON.parse(process.argv[2]);

export const headers = task.token ? { Authorization: `Bearer ${task.token}` } : {};

export const info = { name: 'ostiary-peer', version: '1' };

export const capabilities = { sampling: {}, elicitation: { form: {} } };

export const answers = {
  sample: async () => ({ model: 'peer', role: 'assistant', content: { type: 'text', text: 'forty-two' } }),
  elicit: async () => ({ action: 'accept', content: { answer: 'blue' } }),
};

// print is done when the line has left: process.exit does not wait for it.
const print = line => new Promise(done => process.stdout.write(JSON.stringify(line) + '\n', done));

const failure = e => ({ error: String(e?.message ?? e), code: typeof e?.code === 'number' ? e.code : 0, data: e?.data });

// converse connects and takes the steps. version says after connecting which
// revision was agreed on; call is how this client calls a tool.
export async function converse(client, transport, version, call) {
  try {
    await client.connect(transport);
    await print({ op: 'connect', version: version(client, transport) });
  } catch (e) {
    await print({ op: 'connect', ...failure(e) });
    process.exit(0);
  }
  for (const step of task.steps) {
    try {
      await print({ op: step.op, name: step.name, ...await steps[step.op](client, step, call) });
    } catch (e) {
      await print({ op: step.op, name: step.name, ...failure(e) });
    }
  }
  await client.close();
  process.exit(0);
}
