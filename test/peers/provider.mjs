// oidc-provider, a certified OpenID provider, as the one where people sign in.
// Its login page takes any name and asks for no password that it checks.
import Provider from 'oidc-provider';

const { issuer, port, client, secret, redirect } = JSON.parse(process.env.OSTIARY_TASK);
const provider = new Provider(issuer, {
  clients: [{ client_id: client, client_secret: secret, redirect_uris: [redirect], grant_types: ['authorization_code'], response_types: ['code'] }],
  claims: { openid: ['sub'], email: ['email', 'email_verified'], profile: ['name'] },
  conformIdTokenClaims: false,
  pkce: { required: () => true },
  cookies: { keys: ['a key of this test'] },
  findAccount: (_, id) => ({ accountId: id, claims: () => ({ sub: id, name: id, email: `${id}@example.org`, email_verified: true }) }),
});
provider.listen(port, '127.0.0.1', () => process.stdout.write('{"ready":true}\n'));
