// The request of the playground as a command or a program.

export function program(kind, base, { stream, stream_options, ...body }) {
  if (kind === "curl") {
    const quoted = JSON.stringify(body, null, 2).replaceAll("'", "'\\''");
    return `curl ${base}/chat/completions \\
  -H "Authorization: Bearer $BLUESMINDS_KEY" \\
  -H "Content-Type: application/json" \\
  -d '${quoted}'`;
  }
  const given = Object.entries(body).map(([name, value]) => `    ${name}=${JSON.stringify(value, null, 4).replaceAll("\n", "\n    ")},`);
  return `import os

from openai import OpenAI

client = OpenAI(base_url=${JSON.stringify(base)}, api_key=os.environ["BLUESMINDS_KEY"])
response = client.chat.completions.create(
${given.join("\n")}
)
print(response.choices[0].message.content)`;
}
