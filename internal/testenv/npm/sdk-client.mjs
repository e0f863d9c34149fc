// A client made with the MCP project's TypeScript SDK, major version MCP_SDK, with its own OAuth.
// It signs in to the server MCP_SERVER, where nobody asks anything, and prints its tools' names and
// whether it got a refresh token, as JSON.
import { createServer } from 'node:http';
import { createRequire } from 'node:module';

const require = createRequire(process.env.ASTRAVUE_MCP_NODE_MODULES + '/');
const { Client, StreamableHTTPClientTransport, UnauthorizedError } = process.env.MCP_SDK === '1' ? {
  ...require('@modelcontextprotocol/sdk/client/index.js'),
  ...require('@modelcontextprotocol/sdk/client/streamableHttp.js'),
  ...require('@modelcontextprotocol/sdk/client/auth.js'),
} : require('@modelcontextprotocol/client');

let arrived;
const callback = new Promise((resolve) => { arrived = resolve; });
const listener = createServer((req, res) => {
  arrived(new URL(req.url, redirectUrl).searchParams);
  res.end('Signed in.');
});
await new Promise((resolve) => listener.listen(0, '127.0.0.1', resolve));
const redirectUrl = `http://127.0.0.1:${listener.address().port}/callback`;

const kept = {};
const provider = {
  redirectUrl,
  clientMetadata: {
    client_name: 'TypeScript SDK',
    redirect_uris: [redirectUrl],
    grant_types: ['authorization_code', 'refresh_token'],
    response_types: ['code'],
    token_endpoint_auth_method: 'none',
  },
  state: () => 'a state',
  clientInformation: () => kept.client,
  saveClientInformation: (client) => { kept.client = client; },
  tokens: () => kept.tokens,
  saveTokens: (tokens) => { kept.tokens = tokens; },
  saveCodeVerifier: (verifier) => { kept.verifier = verifier; },
  codeVerifier: () => kept.verifier,
  saveDiscoveryState: (state) => { kept.discovery = state; },
  discoveryState: () => kept.discovery,
  async redirectToAuthorization(url) {
    const response = await fetch(url); // follows redirects, to the listener above
    if (!response.ok) throw new Error(`the authorization endpoint answers ${response.status}`);
  },
};

const about = { name: 'interop', version: '1.0.0' };
const make = () => new Client(about, { versionNegotiation: { mode: 'auto' } });
const transport = () => new StreamableHTTPClientTransport(new URL(process.env.MCP_SERVER), { authProvider: provider });

const first = transport();
try {
  await make().connect(first);
  throw new Error('no sign-in was asked for');
} catch (err) {
  if (!(err instanceof UnauthorizedError)) throw err;
}
const answer = await callback;
if (answer.get('state') !== 'a state') throw new Error('the callback has another state');
await (process.env.MCP_SDK === '1' ? first.finishAuth(answer.get('code')) : first.finishAuth(answer));

const client = make();
const used = transport();
await client.connect(used);
const { tools } = await client.listTools();
console.log(JSON.stringify({
  tools: tools.map((tool) => tool.name),
  refreshable: Boolean(kept.tokens.refresh_token),
}));
await client.close();
listener.close();
listener.closeAllConnections();
