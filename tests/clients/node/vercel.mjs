// What do the providers of Vercel's AI SDK have in common? Each one's program says only how it takes an effort.
import { generateText, Output, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";

import { add, caught, question, show } from "./shown.mjs";

const tokens = (usage) => [usage.inputTokens, usage.outputTokens, usage.outputTokenDetails.reasoningTokens];

/** Do everything with a provider's models; `options` are its own, with an effort of that name if there is one. */
export async function tryAll(provider, options, seen = {}) {
  const ask = { model: provider("abacus"), prompt: question, maxRetries: 0, providerOptions: options() };
  const whole = await generateText({ ...ask, providerOptions: options("low") });
  const streamed = streamText(ask);
  const stream = await streamed.text;

  const numbers = z.object({ a: z.number(), b: z.number() });
  const tools = { add: tool({ inputSchema: numbers, execute: (given) => String(add(given)) }) };
  const called = streamText({ ...ask, tools, stopWhen: stepCountIs(3) });

  const output = Output.object({ schema: z.object({ total: z.number() }) });

  show({
    ...seen,
    whole: whole.text,
    thought: whole.reasoningText || undefined,
    usage: tokens(whole.usage),
    budget: whole.response.headers["x-laconic-budget"],
    stream,
    stream_usage: tokens(await streamed.usage),
    tool: await called.text,
    object: (await generateText({ ...ask, output })).output,
    unknown: await caught(() => generateText({ ...ask, model: provider("nobody") })),
    refused: await caught(() => generateText({ ...ask, providerOptions: options("lots") })),
  });
}
