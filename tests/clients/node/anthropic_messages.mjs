// What does Anthropic's client for JavaScript show of messages?
import Anthropic from "@anthropic-ai/sdk";
import { betaZodTool } from "@anthropic-ai/sdk/helpers/beta/zod";
import { zodOutputFormat } from "@anthropic-ai/sdk/helpers/zod";
import { z } from "zod";

import { add, caught, question, show, url } from "./shown.mjs";

const client = new Anthropic({ baseURL: url, apiKey: "none", maxRetries: 0 });
const ask = { model: "abacus", max_tokens: 400, messages: [{ role: "user", content: question }] };
const block = (message, type) => message.content.find((one) => one.type === type);
const tokens = (usage) => [usage.input_tokens, usage.output_tokens, usage.output_tokens_details.thinking_tokens];

const { data: whole, response } = await client.messages
  .create({ ...ask, output_config: { effort: "low" } })
  .withResponse();
const streamed = await client.messages.stream(ask).finalMessage();

const tool = betaZodTool({
  name: "add",
  description: "Adds two numbers.",
  inputSchema: z.object({ a: z.number(), b: z.number() }),
  run: (numbers) => String(add(numbers)),
});
const called = await client.beta.messages.toolRunner({ ...ask, tools: [tool] });

const format = zodOutputFormat(z.object({ total: z.number() }));
const parsed = await client.messages.parse({ ...ask, output_config: { format } });

show({
  whole: block(whole, "text").text,
  thought: block(whole, "thinking").thinking,
  usage: tokens(whole.usage),
  budget: response.headers.get("x-laconic-budget"),
  stream: block(streamed, "text").text,
  stream_usage: tokens(streamed.usage),
  tool: block(called, "text").text,
  object: parsed.parsed_output,
  unknown: await caught(() => client.messages.create({ ...ask, model: "nobody" })),
  refused: await caught(() => client.messages.create({ ...ask, output_config: { effort: "lots" } })),
});
