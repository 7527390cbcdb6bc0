// What does OpenAI's client for JavaScript show of responses?
import OpenAI from "openai";
import { zodTextFormat } from "openai/helpers/zod";
import { z } from "zod";

import { add, caught, question, show, url } from "./shown.mjs";

const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "none", maxRetries: 0 });
const ask = { model: "abacus", input: question };
const tokens = (usage) => [usage.input_tokens, usage.output_tokens, usage.output_tokens_details.reasoning_tokens];

const { data: whole, response } = await client.responses.create({ ...ask, reasoning: { effort: "low" } }).withResponse();
const streamed = await client.responses.stream(ask).finalResponse();

const tool = {
  type: "function",
  name: "add",
  parameters: { type: "object", properties: { a: { type: "number" }, b: { type: "number" } } },
};
const calling = await client.responses.create({ ...ask, tools: [tool] });
const call = calling.output.find((item) => item.type === "function_call");
const output = String(add(JSON.parse(call.arguments)));
const called = await client.responses.create({
  ...ask,
  tools: [tool],
  input: [
    { role: "user", content: question },
    ...calling.output,
    { type: "function_call_output", call_id: call.call_id, output },
  ],
});

const parsed = await client.responses.parse({
  ...ask,
  text: { format: zodTextFormat(z.object({ total: z.number() }), "sum") },
});

show({
  whole: whole.output_text,
  thought: whole.output.find((item) => item.type === "reasoning").content[0].text,
  usage: tokens(whole.usage),
  budget: response.headers.get("x-laconic-budget"),
  stream: streamed.output_text,
  stream_usage: tokens(streamed.usage),
  tool: called.output_text,
  object: parsed.output_parsed,
  unknown: await caught(() => client.responses.create({ ...ask, model: "nobody" })),
  refused: await caught(() => client.responses.create({ ...ask, reasoning: { effort: "lots" } })),
});
