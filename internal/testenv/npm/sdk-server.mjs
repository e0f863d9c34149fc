// A server made with the MCP project's TypeScript SDK. MCP_SDK says which: "1" has sessions and
// speaks up to 2025-11-25, as has "2-legacy", and "2-modern" speaks 2026-07-28 alone.
import { randomUUID } from 'node:crypto';
import { createServer } from 'node:http';
import { createRequire } from 'node:module';

const require = createRequire(process.env.ASTRAVUE_MCP_NODE_MODULES + '/');
const v1 = process.env.MCP_SDK === '1';
const { McpServer, createMcpHandler } = require(v1 ? '@modelcontextprotocol/sdk/server/mcp.js' : '@modelcontextprotocol/server');
const { z } = require('zod');

function make() {
  const server = new McpServer({ name: `typescript-${process.env.MCP_SDK}`, version: '1.0.0' });
  const input = { a: z.number(), b: z.number() };
  const args = { name: z.string() };
  server.registerTool('add', { description: 'Adds two numbers.', inputSchema: v1 ? input : z.object(input) },
    async ({ a, b }) => ({ content: [{ type: 'text', text: String(a + b) }] }));
  server.registerResource('memo', 'memo://one', { mimeType: 'text/plain' },
    async (uri) => ({ contents: [{ uri: uri.href, mimeType: 'text/plain', text: 'the first memo' }] }));
  server.registerPrompt('greet', { description: 'Greets.', argsSchema: v1 ? args : z.object(args) },
    async ({ name }) => ({ messages: [{ role: 'user', content: { type: 'text', text: `Greet ${name}` } }] }));
  return server;
}

let handle;
if (process.env.MCP_SDK === '2-modern') {
  const { toNodeHandler } = require('@modelcontextprotocol/node');
  handle = toNodeHandler(createMcpHandler(make, { legacy: 'reject' }));
} else {
  const { StreamableHTTPServerTransport, NodeStreamableHTTPServerTransport } =
    require(v1 ? '@modelcontextprotocol/sdk/server/streamableHttp.js' : '@modelcontextprotocol/node');
  const Transport = StreamableHTTPServerTransport ?? NodeStreamableHTTPServerTransport;
  const sessions = new Map();
  handle = async (req, res) => {
    const id = req.headers['mcp-session-id'];
    let transport = sessions.get(id);
    if (id && !transport) {
      res.writeHead(404).end();
      return;
    }
    if (!transport) {
      transport = new Transport({
        sessionIdGenerator: randomUUID,
        onsessioninitialized: (id) => sessions.set(id, transport),
        onsessionclosed: (id) => sessions.delete(id),
      });
      await make().connect(transport);
    }
    await transport.handleRequest(req, res);
  };
}
createServer((req, res) => {
  handle(req, res).catch((err) => {
    console.error(err);
    res.writeHead(500).end();
  });
}).listen();
