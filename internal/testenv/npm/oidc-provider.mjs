// A certified OpenID provider in memory, configured by OIDC_CONFIG (OIDCConfig of oidc.go as
// JSON, lifetimes in seconds). Its own development pages sign anybody in.
import { createServer } from 'node:http';
import { resolve } from 'node:path';
import { pathToFileURL } from 'node:url';

const config = JSON.parse(process.env.OIDC_CONFIG);
const module = resolve(process.env.ASTRAVUE_MCP_NODE_MODULES, 'oidc-provider/lib/index.js');
const { Provider, errors } = await import(pathToFileURL(module));

const server = createServer();
server.listen(() => {
  const issuer = config.Issuer || `http://127.0.0.1:${server.address().port}`;
  const provider = new Provider(issuer, {
    clients: config.Clients ?? [],
    scopes: ['openid', 'offline_access', ...config.Scopes],
    claims: { openid: ['sub'], profile: ['name'], email: ['email'] },
    findAccount: (ctx, sub) => ({ accountId: sub, claims: () => ({ sub, name: sub, email: `${sub}@example.com` }) }),
    ttl: {
      AccessToken: config.AccessTTL,
      RefreshToken: config.RefreshTTL,
    },
    rotateRefreshToken: true,
    issueRefreshToken: (ctx, client, source) => client.grantTypeAllowed('refresh_token')
      && (!config.OfflineOnly || source.scopes.has('offline_access')),
    features: {
      registration: { enabled: !config.NoRegistration },
      registrationManagement: { enabled: !config.NoRegistration },
      revocation: { enabled: true },
      resourceIndicators: {
        enabled: true,
        getResourceServerInfo(ctx, resource) {
          if (resource !== config.Resource) throw new errors.InvalidTarget();
          return {
            audience: resource,
            scope: config.Scopes.join(' '),
            accessTokenFormat: 'jwt',
            accessTokenTTL: config.AccessTTL,
            jwt: { sign: { alg: 'RS256' } },
          };
        },
      },
    },
  });
  provider.on('server_error', (ctx, err) => console.error(ctx.method, ctx.path, err));
  for (const step of ['authorization', 'grant', 'registration_create', 'revocation']) {
    provider.on(`${step}.error`, (ctx, err) => console.error(step, err.error, err.error_description, err.error_detail ?? ''));
  }
  server.on('request', provider.callback());
});
