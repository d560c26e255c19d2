// The SDK `openai`. The argument is a set of cases: chat, endpoints or abort.
import OpenAI from 'openai';
import { zodResponseFormat } from 'openai/helpers/zod';
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
  async severalChoices() {
    const { choices } = await client.chat.completions.create({ ...asked('Hi', { n: 2 }), model: 'demo/echo' });
    return choices.map((choice) => choice.message.content);
  },
  async reasoning() {
    const { choices } = await client.chat.completions.create({ ...asked('Hi'), model: 'demo/reasoning' });
    return Boolean(choices[0].message.reasoning_content);
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

await report({ chat: chatCases, endpoints: endpointCases, abort: abortCases }[process.argv[2]]);
