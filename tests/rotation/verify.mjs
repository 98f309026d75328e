// A relying party of Node: the package jose finds the keys with createRemoteJWKSet.
//
//     NODE_PATH=... NODE_EXTRA_CA_CERTS=... node verify.mjs AUDIENCE PATIENCE
//
// PATIENCE is for how many seconds keys that were read are good enough. Each line of input is an
// issuer URL and a token that is said to be of it; each line of output is "ok KID" or
// "bad REASON KID".

import { createRequire } from 'node:module';
import { createInterface } from 'node:readline';
import { webcrypto } from 'node:crypto';
import { pathToFileURL } from 'node:url';

// jose expects it, and Node 18 does not show it to everybody.
globalThis.crypto ??= webcrypto;
// An import does not look into NODE_PATH by itself.
const path = createRequire(import.meta.url).resolve('jose');
const jose = await import(pathToFileURL(path));

const [audience, patience] = process.argv.slice(2);
const milliseconds = Number(patience) * 1000;
const reasons = {
  ERR_JWKS_NO_MATCHING_KEY: 'unknown-kid',
  ERR_JWS_SIGNATURE_VERIFICATION_FAILED: 'signature',
  ERR_JWT_EXPIRED: 'expired',
};

/** What is known of an issuer, from its discovery document. */
async function discover(url) {
  const reply = await fetch(`${url}/.well-known/openid-configuration`);
  const document = await reply.json();
  const keys = jose.createRemoteJWKSet(new URL(document.jwks_uri), {
    cacheMaxAge: milliseconds,
    cooldownDuration: milliseconds,
  });
  const algorithms = document.id_token_signing_alg_values_supported;
  return { keys, options: { issuer: document.issuer, audience, algorithms } };
}

async function verdict(url, token) {
  try {
    if (!issuers.has(url)) issuers.set(url, await discover(url));
    const { keys, options } = issuers.get(url);
    await jose.jwtVerify(token, keys, { ...options, clockTolerance: 1, requiredClaims: ['exp'] });
    return 'ok';
  } catch (error) {
    const reason = reasons[error.code];
    if (!reason) console.error('jose:', error);
    return `bad ${reason ?? 'other'}`;
  }
}

const issuers = new Map();
for await (const line of createInterface({ input: process.stdin })) {
  const [url, token] = line.split(' ');
  console.log(`${await verdict(url, token)} ${jose.decodeProtectedHeader(token).kid}`);
}
