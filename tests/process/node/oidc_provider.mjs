// An OpenID Connect provider (the certified package oidc-provider) with one user. It prints its issuer, and starts when it
// reads the address that its only client returns to.

import http from "node:http";
import readline from "node:readline";
import Provider from "oidc-provider";

const server = http.createServer();
server.listen(0, "127.0.0.1", () => console.log(`http://127.0.0.1:${server.address().port}`));
const [callback] = await new Promise((resolve) => {
  readline.createInterface({ input: process.stdin }).once("line", (line) => resolve([line]));
});

const provider = new Provider(`http://127.0.0.1:${server.address().port}`, {
  clients: [{ client_id: "gateway", client_secret: process.env.SECRET, redirect_uris: [callback] }],
  pkce: { required: () => true },
  claims: { openid: ["sub"], email: ["email", "email_verified"], profile: ["name"] },
  cookies: { keys: ["only for this test"] },
  features: { devInteractions: { enabled: false } },
  interactions: { url: (_, interaction) => `/interaction/${interaction.uid}` },
  findAccount: (_, id) => ({
    accountId: id,
    claims: () => ({ sub: id, email: `${id}@example.com`, email_verified: true, name: "Ada Lovelace" }),
  }),
});

async function interact(request, response) {
  if (request.method === "GET") {
    response.setHeader("content-type", "text/html");
    response.end('<!DOCTYPE html><title>Provider</title><form method="post"><button>Allow</button></form>');
    return;
  }
  const { params } = await provider.interactionDetails(request, response);
  const grant = new provider.Grant({ accountId: "ada", clientId: params.client_id });
  grant.addOIDCScope(params.scope);
  const result = { login: { accountId: "ada" }, consent: { grantId: await grant.save() } };
  await provider.interactionFinished(request, response, result, { mergeWithLastSubmission: false });
}

const handle = provider.callback();
server.on("request", (request, response) => {
  if (request.url.startsWith("/interaction/")) interact(request, response);
  else handle(request, response);
});
console.log("ready");
