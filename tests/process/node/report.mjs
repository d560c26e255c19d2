// Runs the cases of a client and prints one JSON object: the value of each case, or its error.
//
// BASE_URL is the URL of the gateway without a path. LIMITED_KEY allows one request per minute.
export const { BASE_URL, API_KEY, LIMITED_KEY, MODEL } = process.env;

export const WEATHER = {
  name: 'weather',
  description: 'The weather in a city',
  prompt: 'call weather {"city": "Oslo"}\ncall weather {"city": "Rome"}',
  answer: ({ city }) => `rain in ${city}`,
};

export async function report(cases) {
  const results = {};
  for (const [name, run] of Object.entries(cases)) {
    try {
      results[name] = await run();
    } catch (error) {
      results[name] = { error: described(error) };
    }
  }
  process.stdout.write(JSON.stringify(results));
}

function described(error) {
  const { status, statusCode, code, type, message, isRetryable } = error;
  return { name: error.constructor.name, status: status ?? statusCode, code, type, message, isRetryable };
}

export async function collected(stream) {
  const parts = [];
  for await (const part of stream) parts.push(part);
  return parts;
}
