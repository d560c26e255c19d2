// The AI SDK `ai`, with the provider that the first argument names; with "endpoints", all that is not text.
import { createAnthropic } from '@ai-sdk/anthropic';
import { createGoogleGenerativeAI } from '@ai-sdk/google';
import { createOpenAI } from '@ai-sdk/openai';
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import {
  Output,
  embedMany,
  experimental_generateImage as generateImage,
  experimental_generateSpeech as generateSpeech,
  generateText,
  stepCountIs,
  streamText,
  tool,
} from 'ai';
import { z } from 'zod';
import { API_KEY, BASE_URL, LIMITED_KEY, MODEL, WEATHER, collected, report } from './report.mjs';

globalThis.AI_SDK_LOG_WARNINGS = false; // they are written to the standard output

const baseURL = `${BASE_URL}/v1`;
const PROVIDERS = {
  openai: (apiKey) => createOpenAI({ baseURL, apiKey }),
  'openai-chat': (apiKey) => createOpenAI({ baseURL, apiKey }).chat,
  'openai-compatible': (apiKey) =>
    createOpenAICompatible({ name: 'gateway', baseURL, apiKey, includeUsage: true, supportsStructuredOutputs: true }),
  anthropic: (apiKey) => createAnthropic({ baseURL, apiKey }),
  google: (apiKey) => createGoogleGenerativeAI({ baseURL: `${BASE_URL}/v1beta`, apiKey }),
};
const provider = PROVIDERS[process.argv[2]];
const City = z.object({ city: z.string() });
const tools = {
  [WEATHER.name]: tool({ description: WEATHER.description, inputSchema: City, execute: WEATHER.answer }),
};
const stopWhen = stepCountIs(3);

const asked = (prompt, more = {}) => ({ model: provider(API_KEY)(MODEL), prompt, maxRetries: 0, ...more });
const silent = { onError() {} };

async function streamed(prompt, more) {
  const result = streamText(asked(prompt, { ...silent, ...more }));
  const parts = await collected(result.fullStream);
  const failed = parts.find((part) => part.type === 'error');
  if (failed) throw failed.error;
  return result;
}

const endpointCases = {
  async embeddings() {
    const { embeddings, usage } = await embedMany({
      model: createOpenAICompatible({ name: 'gateway', baseURL, apiKey: API_KEY }).textEmbeddingModel('demo/embedding'),
      values: ['one', 'two'],
    });
    return { sizes: embeddings.map((vector) => vector.length), usage: usage.tokens > 0 };
  },
  async image() {
    const model = createOpenAI({ baseURL, apiKey: API_KEY }).image('demo/image');
    return (await generateImage({ model, prompt: 'Stripes', size: '64x64' })).image.mediaType;
  },
  async speech() {
    const model = createOpenAI({ baseURL, apiKey: API_KEY }).speech('demo/speech');
    return (await generateSpeech({ model, text: 'Say hello.', outputFormat: 'wav' })).audio.uint8Array.length > 44;
  },
};

const textCases = {
  async plain() {
    const { text, finishReason, usage } = await generateText(asked('Hi', { system: 'Be brief.' }));
    return { text, finishReason, usage: usage.inputTokens > 0 && usage.outputTokens > 0 };
  },
  async stream() {
    const result = await streamed('Hi');
    const usage = await result.totalUsage;
    return { text: await result.text, finishReason: await result.finishReason, usage: usage.inputTokens > 0 && usage.outputTokens > 0 };
  },
  async tools() {
    const { text, steps } = await generateText(asked(WEATHER.prompt, { tools, stopWhen }));
    return { text, steps: steps.length };
  },
  async streamedTools() {
    const result = await streamed(WEATHER.prompt, { tools, stopWhen });
    return { text: await result.text, steps: (await result.steps).length };
  },
  async structured() {
    return (await generateText(asked('answer {"city": "Oslo"}\ncall json {"city": "Oslo"}', { output: Output.object({ schema: City }) }))).output;
  },
  async streamedStructured() {
    const prompt = 'answer {"city": "Oslo"}\ncall json {"city": "Oslo"}';
    return (await streamed(prompt, { output: Output.object({ schema: City }) })).output;
  },
  unknownModel: () => generateText({ ...asked('Hi'), model: provider(API_KEY)('other') }),
  wrongKey: () => generateText({ ...asked('Hi'), model: provider('bm_wrong')(MODEL) }),
  badRequest: () => generateText(asked('refuse 400')),
  tooManyRequests: () => generateText(asked('refuse 429')),
  serverError: () => streamed('refuse 500'),
  async brokenStream() {
    return { finishReason: await (await streamed('cut')).finishReason };
  },
  async limit() {
    const model = provider(LIMITED_KEY)(MODEL);
    await generateText({ ...asked('Hi'), model });
    return generateText({ ...asked('Hi'), model });
  },
};

await report(process.argv[2] === 'endpoints' ? endpointCases : textCases);
