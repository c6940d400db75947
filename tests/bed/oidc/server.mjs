// Serves the npm package oidc-provider over TLS on loopback: an OpenID provider that nobody of Mailquay wrote.
//
// It promises what that package does, set up for mail: device code, authorization code with PKCE, refresh tokens that
// rotate and whose reuse ends the session, client credentials; access tokens are JWTs for Exchange's two resources.
// Whoever signs in is who they say. Everything is in memory. Started by tests/bed/oidc_provider.py, which says all names
// and the secret as JSON in the variable OIDC_BED; when it listens, it prints one line of JSON.

import { generateKeyPairSync, randomBytes, randomUUID } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { createServer } from 'node:https'
import { Provider } from 'oidc-provider'

const bed = JSON.parse(process.env.OIDC_BED)
const MOUNT = new URL(bed.issuer).pathname
const DEVICE_CODE = 'urn:ietf:params:oauth:grant-type:device_code'
// What a client may ask for, at which resource. MSAL never says `resource`, so the grant decides.
const DELEGATED = 'https://outlook.office.com'
const APP_ONLY = 'https://outlook.office365.com'
const PERMISSIONS = ['IMAP.AccessAsUser.All', 'POP.AccessAsUser.All', 'SMTP.Send']
const ROLES = ['IMAP.AccessAsApp', 'POP.AccessAsApp', 'SMTP.SendAsApp']
// The port of a native application's loopback address does not count (RFC 8252 section 7.3).
const LOOPBACK = { application_type: 'native', redirect_uris: ['http://localhost', 'http://127.0.0.1'] }

let accessTokenLifetime = bed.access_token_lifetime
// The grants for which offline access was asked in Google's way.
const offline = new Set()

function resourceServer (_, resource) {
  const scopes = resource === DELEGATED ? PERMISSIONS : ['.default']
  return {
    scope: scopes.map(name => `${resource}/${name}`).join(' '),
    audience: resource,
    accessTokenTTL: accessTokenLifetime,
    accessTokenFormat: 'jwt',
    jwt: { sign: { alg: 'RS256' } }
  }
}

function claimsOf (upn) {
  return { sub: upn, upn, preferred_username: upn, email: upn, email_verified: true }
}

function signingKey () {
  const { privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048 })
  return { ...privateKey.export({ format: 'jwk' }), kid: randomUUID(), use: 'sig', alg: 'RS256' }
}

const provider = new Provider(bed.issuer, {
  clients: [
    {
      client_id: bed.client_id,
      token_endpoint_auth_method: 'none',
      ...LOOPBACK,
      grant_types: [DEVICE_CODE, 'authorization_code', 'refresh_token']
    },
    {
      client_id: bed.robot_id,
      client_secret: bed.robot_secret,
      token_endpoint_auth_method: 'client_secret_post',
      ...LOOPBACK,
      grant_types: ['client_credentials', 'authorization_code', 'refresh_token']
    }
  ],
  features: {
    deviceFlow: { enabled: true },
    clientCredentials: { enabled: true },
    devInteractions: { enabled: true },
    resourceIndicators: {
      enabled: true,
      defaultResource: ctx => ctx.oidc.params.grant_type === 'client_credentials' ? APP_ONLY : DELEGATED,
      useGrantedResource: () => true,
      getResourceServerInfo: resourceServer
    }
  },
  rotateRefreshToken: true,
  // Google's clients say `access_type=offline` instead of a scope.
  extraParams: ['access_type'],
  issueRefreshToken: async (_, client, source) =>
    client.grantTypeAllowed('refresh_token') &&
    (source.scopes.has('offline_access') || offline.has(source.grantId)),
  scopes: ['openid', 'profile', 'email', 'offline_access'],
  // All of them for whoever asks for `openid`: MSAL never asks for `email`.
  claims: { openid: Object.keys(claimsOf('')) },
  // MSAL reads who signed in from the id token alone.
  conformIdTokenClaims: false,
  findAccount: (_, upn) => ({ accountId: upn, claims: () => claimsOf(upn) }),
  extraTokenClaims: (_, token) => token.accountId ? { upn: token.accountId } : { idtyp: 'app', roles: ROLES },
  jwks: { keys: [signingKey()] },
  cookies: { keys: [randomBytes(32).toString('hex')] }
})
provider.on('authorization.success', ctx => {
  const { params, session, client } = ctx.oidc
  if (params.access_type === 'offline') offline.add(session.grantIdFor(client.clientId))
})
provider.on('server_error', (_, error) => console.error(error))

const handle = provider.callback()
const tls = { cert: readFileSync(bed.chain_file), key: readFileSync(bed.key_file) }

const server = createServer(tls, (request, response) => {
  if (request.url.startsWith(`${MOUNT}/`)) {
    // The provider finds its mount point by comparing the two.
    request.originalUrl = request.url
    request.url = request.url.slice(MOUNT.length)
    handle(request, response)
  } else if (request.method === 'PUT' && request.url.startsWith('/_lab/access-token-lifetime/')) {
    accessTokenLifetime = Number(request.url.split('/').pop())
    response.writeHead(204).end()
  } else {
    response.writeHead(404).end()
  }
})
server.listen(new URL(bed.issuer).port, '127.0.0.1', () => console.log(JSON.stringify({ ready: bed.issuer })))
