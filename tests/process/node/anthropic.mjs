// The SDK `@anthropic-ai/sdk`.
import Anthropic from '@anthropic-ai/sdk';
import { betaZodTool } from '@anthropic-ai/sdk/helpers/beta/zod';
import { zodOutputFormat } from '@anthropic-ai/sdk/helpers/zod';
import { z } from 'zod';
import { API_KEY, BASE_URL, LIMITED_KEY, MODEL, WEATHER, collected, report } from './report.mjs';

const client = new Anthropic({ baseURL: BASE_URL, apiKey: API_KEY, maxRetries: 0 });
const City = z.object({ city: z.string() });
const tool = betaZodTool({ name: WEATHER.name, description: WEATHER.description, inputSchema: City, run: WEATHER.answer });

const asked = (content, more = {}) => ({ model: MODEL, max_tokens: 64, messages: [{ role: 'user', content }], ...more });
const textOf = (message) => message.content.map((block) => block.text ?? '').join('');

await report({
  async models() {
    const listed = await collected(client.models.list());
    return [listed.map((model) => model.id), (await client.models.retrieve(MODEL)).display_name];
  },
  async plain() {
    const message = await client.messages.create(asked('Hi', { system: 'Be brief.' }));
    const { input_tokens, output_tokens } = message.usage;
    return { text: textOf(message), stop: message.stop_reason, usage: input_tokens > 0 && output_tokens > 0, id: Boolean(message._request_id) };
  },
  async events() {
    return (await collected(await client.messages.create(asked('Hi', { stream: true })))).map((event) => event.type);
  },
  async stream() {
    const message = await client.messages.stream(asked('Hi')).finalMessage();
    return { text: textOf(message), stop: message.stop_reason };
  },
  async streamHelper() {
    const { name, description, input_schema } = tool;
    const message = await client.messages.stream(asked(WEATHER.prompt, { tools: [{ name, description, input_schema }] })).finalMessage();
    return message.content.map((block) => block.input);
  },
  tools: async () => textOf(await client.beta.messages.toolRunner(asked(WEATHER.prompt, { tools: [tool] }))),
  async streamedTools() {
    const runner = client.beta.messages.toolRunner(asked(WEATHER.prompt, { tools: [tool], stream: true }));
    for await (const stream of runner) await stream.finalMessage();
    return textOf(await runner.done());
  },
  async structured() {
    const format = zodOutputFormat(City);
    return (await client.messages.parse(asked('answer {"city": "Oslo"}', { output_config: { format } }))).parsed_output;
  },
  countTokens: async () => (await client.messages.countTokens({ model: MODEL, messages: asked('Hi').messages })).input_tokens > 0,
  unknownModel: () => client.messages.create({ ...asked('Hi'), model: 'other' }),
  wrongKey: () => client.withOptions({ apiKey: 'bm_wrong' }).messages.create(asked('Hi')),
  badRequest: () => client.messages.create(asked('refuse 400')),
  tooManyRequests: () => client.messages.create(asked('refuse 429')),
  serverError: () => client.messages.create(asked('refuse 500', { stream: true })),
  brokenStream: () => client.messages.stream(asked('cut')).finalMessage(),
  async limit() {
    const limited = client.withOptions({ apiKey: LIMITED_KEY });
    await limited.messages.create(asked('Hi'));
    return limited.messages.create(asked('Hi'));
  },
});
