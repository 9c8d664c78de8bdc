// Evaluates the cases on stdin with unmodified OpenFeature SDKs and prints what
// their callers get.
import { text } from 'node:stream/consumers';
import { setTimeout as sleep } from 'node:timers/promises';
import { OpenFeature } from '@openfeature/server-sdk';
import { OFREPProvider } from '@openfeature/ofrep-provider';
import { OpenFeature as WebFeature } from '@openfeature/web-sdk';
import { OFREPWebProvider } from '@openfeature/ofrep-web-provider';

const input = JSON.parse(await text(process.stdin));

const answers = [];
for (const c of input.cases) {
  const provider = new OFREPProvider({ baseUrl: c.url, headers: [['X-API-Key', c.token]] });
  await OpenFeature.setProviderAndWait(c.name, provider);
  const d = await OpenFeature.getClient(c.name).getStringDetails(c.flag, input.fallback, c.context);
  answers.push({
    value: d.value, variant: d.variant, reason: d.reason, error_code: d.errorCode,
    force_hitl: d.flagMetadata.force_hitl, release_id: d.flagMetadata.release_id,
  });
}

await WebFeature.setContext({ targetingKey: 'session-1' });
const web = new OFREPWebProvider({
  baseUrl: input.bulk.url, headers: [['Authorization', `Bearer ${input.bulk.token}`]], pollInterval: 200,
});
await WebFeature.setProviderAndWait(web);
await sleep(700);
const client = WebFeature.getClient();
const bulk = {};
for (const key of ['model_config', 'release_version', 'dark_mode']) {
  bulk[key] = client.getStringValue(key, input.fallback);
}
await WebFeature.close();
await OpenFeature.close();
console.log(JSON.stringify({ answers, bulk }));
