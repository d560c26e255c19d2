// The SDK `openai`. The argument is a set of cases. Realtime needs a gateway with TLS: the SDK has no other WebSockets.
import OpenAI, { toFile } from 'openai';
import { zodResponseFormat, zodTextFormat } from 'openai/helpers/zod';
import { OpenAIRealtimeWS } from 'openai/realtime/ws';
import { z } from 'zod';
import { API_KEY, BASE_URL, LIMITED_KEY, MODEL, WEATHER, collected, report } from './report.mjs';

const client = new OpenAI({ baseURL: `${BASE_URL}/v1`, apiKey: API_KEY, maxRetries: 0 });
const City = z.object({ city: z.string() });

const asked = (content, more = {}) => ({ model: MODEL, messages: [{ role: 'user', content }], ...more });
const chat = (content, more) => client.chat.completions.create(asked(content, more));
const tool = {
  type: 'function',
  function: {
    name: WEATHER.name,
    description: WEATHER.description,
    parameters: { type: 'object', properties: { city: { type: 'string' } }, required: ['city'] },
    parse: JSON.parse,
    function: WEATHER.answer,
  },
};

const chatCases = {
  async models() {
    return [(await collected(client.models.list())).map((model) => model.id), (await client.models.retrieve(MODEL)).id];
  },
  async plain() {
    const { data, request_id } = await client.chat.completions.create(asked('Hi')).withResponse();
    const [choice] = data.choices;
    return { text: choice.message.content, finish: choice.finish_reason, usage: data.usage.total_tokens, id: Boolean(request_id) };
  },
  async stream() {
    const parts = await collected(await chat('Hi', { stream: true, stream_options: { include_usage: true } }));
    return { text: parts.map((part) => part.choices[0]?.delta.content ?? '').join(''), usage: parts.at(-1).usage.total_tokens };
  },
  async streamHelper() {
    const completion = await client.chat.completions.stream(asked(WEATHER.prompt, { tools: [tool] })).finalChatCompletion();
    return completion.choices[0].message.tool_calls.map((call) => call.function.arguments);
  },
  async tools() {
    return client.chat.completions.runTools(asked(WEATHER.prompt, { tools: [tool] })).finalContent();
  },
  async streamedTools() {
    return client.chat.completions.runTools(asked(WEATHER.prompt, { tools: [tool], stream: true })).finalContent();
  },
  async structured() {
    const completion = await client.chat.completions.parse(
      asked('answer {"city": "Oslo"}', { response_format: zodResponseFormat(City, 'city') }),
    );
    return completion.choices[0].message.parsed;
  },
  async jsonMode() {
    const { choices } = await chat('answer {"city": "Oslo"}', { response_format: { type: 'json_object' } });
    return JSON.parse(choices[0].message.content);
  },
  unknownModel: () => client.chat.completions.create({ ...asked('Hi'), model: 'other' }),
  wrongKey: () => client.withOptions({ apiKey: 'bm_wrong' }).chat.completions.create(asked('Hi')),
  badRequest: () => chat('refuse 400'),
  tooManyRequests: () => chat('refuse 429'),
  serverError: () => chat('refuse 500', { stream: true }),
  brokenStream: async () => collected(await chat('cut', { stream: true })),
  async limit() {
    const limited = client.withOptions({ apiKey: LIMITED_KEY });
    await limited.chat.completions.create(asked('Hi'));
    return limited.chat.completions.create(asked('Hi'));
  },
};

const respond = (input, more = {}) => client.responses.create({ model: MODEL, input, store: false, ...more });
const { name, description } = WEATHER;
const weather = { type: 'function', name, description, strict: true, parameters: { ...tool.function.parameters, additionalProperties: false } };

// Run the calls of a response and send their results, with all earlier items.
async function afterCalls(first, send) {
  const calls = first.output.filter((item) => item.type === 'function_call');
  const results = calls.map(({ call_id, arguments: given }) => ({
    type: 'function_call_output', call_id, output: WEATHER.answer(JSON.parse(given)),
  }));
  const { output_text } = await send([{ role: 'user', content: WEATHER.prompt }, ...first.output, ...results]);
  return output_text;
}

const responsesCases = {
  async plain() {
    const { data, request_id } = await respond('Hi', { instructions: 'Be brief.' }).withResponse();
    return { text: data.output_text, status: data.status, usage: data.usage.total_tokens, id: Boolean(request_id) };
  },
  async stream() {
    const events = await collected(await respond('Hi', { stream: true }));
    const deltas = events.filter((event) => event.type === 'response.output_text.delta');
    return { text: deltas.map((event) => event.delta).join(''), last: events.at(-1).type, usage: events.at(-1).response.usage.total_tokens };
  },
  async streamHelper() {
    const stream = client.responses.stream({ model: MODEL, input: WEATHER.prompt, store: false, tools: [weather] });
    return (await stream.finalResponse()).output.map((item) => item.arguments);
  },
  async tools() {
    const send = (input) => respond(input, { tools: [weather] });
    return afterCalls(await send(WEATHER.prompt), send);
  },
  async structured() {
    const asked = { model: MODEL, input: 'answer {"city": "Oslo"}', store: false };
    return (await client.responses.parse({ ...asked, text: { format: zodTextFormat(City, 'city') } })).output_parsed;
  },
  async countTokens() {
    return (await client.responses.inputTokens.count({ model: MODEL, input: 'Hi' })).input_tokens > 0;
  },
  unknownModel: () => respond('Hi', { model: 'other' }),
  wrongKey: () => client.withOptions({ apiKey: 'bm_wrong' }).responses.create({ model: MODEL, input: 'Hi' }),
  badRequest: () => respond('refuse 400'),
  tooManyRequests: () => respond('refuse 429'),
  serverError: () => respond('refuse 500', { stream: true }),
  brokenStream: async () => collected(await respond('cut', { stream: true })),
  async limit() {
    const limited = client.withOptions({ apiKey: LIMITED_KEY });
    await limited.responses.create({ model: MODEL, input: 'Hi' });
    return limited.responses.create({ model: MODEL, input: 'Hi' });
  },
};

const storedCases = {
  async stored() {
    const first = await respond('Hi', { store: true });
    const second = await respond('Hi again', { store: true, previous_response_id: first.id });
    const found = await client.responses.retrieve(second.id);
    const items = await collected(client.responses.inputItems.list(second.id));
    await client.responses.delete(first.id);
    const gone = await client.responses.retrieve(first.id).catch((error) => error.status);
    return { text: found.output_text, items: items.length, gone };
  },
};

const start = (bytes) => bytes.subarray(0, 4).toString('latin1');

const endpointCases = {
  async embeddings() {
    const { data, usage } = await client.embeddings.create({ model: 'demo/embedding', input: ['one', 'two'], dimensions: 8 });
    return { sizes: data.map((row) => row.embedding.length), number: typeof data[0].embedding[0], usage: usage.total_tokens > 0 };
  },
  async completion() {
    const { choices } = await client.completions.create({ model: 'demo/echo', prompt: 'Say hello.' });
    return choices[0].text;
  },
  async completionStream() {
    const stream = await client.completions.create({ model: 'demo/echo', prompt: 'Say hello.', stream: true });
    return (await collected(stream)).map((part) => part.choices[0]?.text ?? '').join('');
  },
  async moderation() {
    const { results } = await client.moderations.create({ model: 'demo/moderation', input: 'I will kill you.' });
    return results[0].flagged;
  },
  async image() {
    const { data } = await client.images.generate({ model: 'demo/image', prompt: 'Stripes', size: '64x64' });
    return start(Buffer.from(data[0].b64_json, 'base64'));
  },
  async imageStream() {
    const stream = await client.images.generate({ model: 'demo/image', prompt: 'Stripes', size: '64x64', stream: true, partial_images: 1 });
    return (await collected(stream)).map((event) => event.type);
  },
  async speech() {
    const answer = await client.audio.speech.create({ model: 'demo/speech', voice: 'alloy', input: 'Say hello.', response_format: 'wav' });
    return start(Buffer.from(await answer.arrayBuffer()));
  },
  async imageEdit() {
    const { data: [made] } = await client.images.generate({ model: 'demo/image', prompt: 'Stripes', size: '64x64' });
    const image = await toFile(Buffer.from(made.b64_json, 'base64'), 'a.png', { type: 'image/png' });
    const { data } = await client.images.edit({ model: 'demo/image', image: [image, image], prompt: 'Dots', size: '64x64' });
    return start(Buffer.from(data[0].b64_json, 'base64'));
  },
  async transcription() {
    const spoken = await client.audio.speech.create({ model: 'demo/speech', voice: 'alloy', input: 'Say hello.', response_format: 'wav' });
    const file = await toFile(Buffer.from(await spoken.arrayBuffer()), 'a.wav');
    const { text } = await client.audio.transcriptions.create({ model: 'demo/transcription', file });
    const events = await collected(await client.audio.transcriptions.create({ model: 'demo/transcription', file, stream: true }));
    const { text: translated } = await client.audio.translations.create({ model: 'demo/transcription', file });
    return [text.length > 0, events.at(-1).type, events.at(-1).text === text, translated.length > 0];
  },
  async severalChoices() {
    const { choices } = await client.chat.completions.create({ ...asked('Hi', { n: 2 }), model: 'demo/echo' });
    return choices.map((choice) => choice.message.content);
  },
  async reasoning() {
    const { choices } = await client.chat.completions.create({ ...asked('Hi'), model: 'demo/reasoning' });
    return Boolean(choices[0].message.reasoning_content);
  },
};

const realtimeCases = {
  async realtime() {
    const socket = await OpenAIRealtimeWS.create(client, { model: 'demo/realtime' });
    const types = [];
    return new Promise((resolve, reject) => {
      socket.on('error', reject);
      socket.on('event', (event) => types.push(event.type));
      socket.on('session.created', () => {
        socket.send({ type: 'conversation.item.create', item: { type: 'message', role: 'user', content: [{ type: 'input_text', text: 'Hi' }] } });
        socket.send({ type: 'response.create', response: { output_modalities: ['text'] } });
      });
      socket.on('response.done', (event) => {
        socket.close();
        resolve({ first: types[0], status: event.response.status, text: event.response.output[0].content[0].text });
      });
    });
  },
};

const abortCases = {
  async abort() {
    const stream = await chat('Hi', { stream: true });
    for await (const part of stream) {
      if (part.choices[0]?.delta.content) break;
    }
    return stream.controller.signal.aborted;
  },
};

const SETS = {
  chat: chatCases,
  responses: responsesCases,
  stored: storedCases,
  endpoints: endpointCases,
  realtime: realtimeCases,
  abort: abortCases,
};
await report(SETS[process.argv[2]]);
