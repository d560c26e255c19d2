// The SDK `@google/genai`. Prints the result of each case, in their order, as one JSON object.
// BASE_URL is the URL of the gateway without a path.
import { FunctionCallingConfigMode, GoogleGenAI, Type } from '@google/genai';

const { BASE_URL, API_KEY, API_VERSION, MODEL } = process.env;
const httpOptions = { baseUrl: BASE_URL, apiVersion: API_VERSION };
const client = new GoogleGenAI({ apiKey: API_KEY, httpOptions });
const stranger = new GoogleGenAI({ apiKey: 'wrong', httpOptions });

const weather = {
  name: 'weather',
  description: 'The weather in a city',
  parameters: { type: Type.OBJECT, properties: { city: { type: Type.STRING } }, required: ['city'] },
};
const tools = [{ functionDeclarations: [weather] }];
const picture = { inlineData: { mimeType: 'image/png', data: 'iVBORw0KGgo=' } };

const ask = (contents, config, model = MODEL) => ({ model, contents, config });
const answerOf = (response) => ({
  text: response.text,
  finish: response.candidates[0].finishReason,
  total: response.usageMetadata?.totalTokenCount,
});

async function collected(stream) {
  const chunks = [];
  for await (const chunk of stream) chunks.push(chunk);
  const parts = chunks.flatMap((chunk) => chunk.candidates?.[0]?.content?.parts ?? []);
  return {
    text: parts.filter((part) => !part.thought).map((part) => part.text ?? '').join(''),
    thought: parts.filter((part) => part.thought).map((part) => part.text).join(''),
    finish: chunks.at(-1)?.candidates[0].finishReason,
    total: chunks.at(-1)?.usageMetadata?.totalTokenCount,
  };
}

// A turn with a call of the tool, its result, and the answer to it.
async function useTool(send) {
  const chat = client.chats.create({ model: MODEL, config: { tools } });
  const calls = await send(chat, 'What is the weather in Oslo?');
  const [{ id, name, args }] = calls;
  const result = { functionResponse: { id, name, response: { output: `rain in ${args.city}` } } };
  const answer = await chat.sendMessage({ message: [result] });
  return { calls: calls.length, args, text: answer.text, turns: chat.getHistory(true).length };
}

const cases = {
  async models() {
    const names = [];
    for await (const model of await client.models.list()) names.push(model.name);
    return [names, (await client.models.get({ model: MODEL })).name];
  },
  async plain() {
    return answerOf(await client.models.generateContent(ask('Say hello.', { systemInstruction: 'Be brief.' })));
  },
  async stream() {
    const config = { thinkingConfig: { includeThoughts: true } };
    return collected(await client.models.generateContentStream(ask('Say hello.', config)));
  },
  async tools() {
    return useTool(async (chat, message) => (await chat.sendMessage({ message })).functionCalls);
  },
  async streamedTools() {
    return useTool(async (chat, message) => {
      const calls = [];
      for await (const chunk of await chat.sendMessageStream({ message })) calls.push(...(chunk.functionCalls ?? []));
      return calls;
    });
  },
  async picture() {
    const contents = [{ role: 'user', parts: [{ text: 'What is this?' }, picture] }];
    return answerOf(await client.models.generateContent(ask(contents, { maxOutputTokens: 99 })));
  },
  async structured() {
    const config = {
      responseMimeType: 'application/json',
      responseSchema: weather.parameters,
      toolConfig: { functionCallingConfig: { mode: FunctionCallingConfigMode.NONE } },
      tools,
    };
    return JSON.parse((await client.models.generateContent(ask('Which city?', config))).text);
  },
  async count() {
    return (await client.models.countTokens({ model: MODEL, contents: 'Say hello.' })).totalTokens > 0;
  },
  async embed() {
    const contents = ['one', 'two'];
    const { embeddings } = await client.models.embedContent({ model: MODEL, contents });
    return embeddings.map((one) => one.values);
  },
  unknownModel: () => client.models.generateContent(ask('Hi', {}, 'other')),
  wrongKey: () => stranger.models.generateContent(ask('Hi')),
  badRequest: () => client.models.generateContent(ask('Hi')),
  tooManyRequests: () => client.models.generateContent(ask('Hi')),
  failedStream: async () => collected(await client.models.generateContentStream(ask('Hi'))),
  brokenStream: async () => collected(await client.models.generateContentStream(ask('Hi'))),
};

const results = {};
for (const [name, run] of Object.entries(cases)) {
  try {
    results[name] = await run();
  } catch (error) {
    results[name] = { error: { name: error.constructor.name, status: error.status, message: error.message } };
  }
}
process.stdout.write(JSON.stringify(results));
